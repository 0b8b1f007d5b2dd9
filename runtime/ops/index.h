#pragma once

#include <cstdint>
#include <optional>

#include "lockstep/runtime/array.h"

// Array-level ops around indices: they check, then call the device's kernels. `name` is the op that
// errors speak of; dimensions are in [0, rank).
namespace lockstep::kernels {

// `index` in i64 (from i64 or i32), on the device of `x`. Throws Error for another dtype.
Array as_index(const char* name, const Array& index, const Array& x);
// Whether all of an i64 array, but for what is `except`, is known to be in [0, count): then nothing
// has to wait for a device.
bool known_within(const Array& index, int64_t count, std::optional<int64_t> except = {});
// Throws Error unless all of an i64 array is in [0, count).
void check_range(const char* name, const Array& index, int64_t count);

// x and index of one shape but for `dim`; index has been checked. The result has index's shape.
Array gather(const Array& x, int dim, const Array& index);
// out[.., index[.., i, ..], ..] += x[.., i, ..]; index (checked) has x's shape, out that shape but
// for `dim`.
void scatter_add(const Array& x, int dim, const Array& index, const Array& out);
// i64 places of what is true in `mask` (bool), row-major: [count].
Array nonzero(const char* name, const Array& mask);

// The place of the first of the largest (smallest) elements of `dim`, which stays with size 1.
Array arg_reduce(const char* name, bool largest, const Array& x, int dim);
// The places of the k first elements of `dim` in ascending (descending) order; `dim` has size k.
Array sort(const char* name, const Array& x, int dim, int64_t k, bool descending);

// s_i = b_i + a_i s_{i-1} along `dim`, from the far end when `reverse`. a may be empty: 1.
Array recurrence(const Array& a, const Array& b, int dim, bool reverse);

}  // namespace lockstep::kernels
