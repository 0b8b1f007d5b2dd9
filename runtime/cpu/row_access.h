#pragma once

#include <algorithm>
#include <cstdint>

#include "lockstep/runtime/cpu/convert.h"
#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/cpu/scratch.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::cpu {

// Rows of a [rows, width] view, each dense, as T: in place where they are T, else through a row of
// scratch. One object a thread. An absent view gives null rows.
template <class T>
class Rows {
 public:
  Rows(const Loops& loops, const View& view, int64_t width)
      : loops_(loops),
        view_(view),
        width_(width),
        distance_(view.rank == 2 ? view.strides[0] : width),
        direct_(view.dtype == dtype_of<T>),
        staged_(direct_ || view.data == nullptr ? 0 : width) {}

  const T* read(int64_t row) const {
    if (view_.data == nullptr) return nullptr;
    if (direct_) return view_.as<T>() + row * distance_;
    convert(loops_, address(row), view_.dtype, 1, staged_.get(), dtype_of<T>, 1, width_);
    return staged_.get();
  }
  // Where to write a row; `keep`: its values will be read too.
  T* write(int64_t row, bool keep = false) const {
    return keep || direct_ ? const_cast<T*>(read(row)) : staged_.get();
  }
  void done(int64_t row) const {
    if (direct_ || view_.data == nullptr) return;
    convert(loops_, staged_.get(), dtype_of<T>, 1, address(row), view_.dtype, 1, width_);
  }

 private:
  void* address(int64_t row) const {
    return static_cast<char*>(view_.data) +
           row * distance_ * static_cast<int64_t>(size_of(view_.dtype));
  }

  const Loops& loops_;
  const View& view_;
  int64_t width_, distance_;
  bool direct_;
  Scratch<T> staged_;
};

// Calls f(T{}) with the type that a dtype's rows are computed in.
template <class F>
void with_row_type(DType dtype, const F& f) {
  if (dtype == DType::f64) {
    f(double{});
  } else {
    f(float{});
  }
}

inline int64_t row_count(const View& x) { return x.rank == 1 ? 1 : x.shape[0]; }
inline int64_t row_width(const View& x) { return x.shape[x.rank - 1]; }

// As many rows as are worth a thread.
inline int64_t row_grain(int64_t width) {
  return std::max<int64_t>(1, 8 * 1024 / std::max<int64_t>(1, width));
}

}  // namespace lockstep::cpu
