#pragma once

#include <cstdint>

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/kernels.h"

// What CUB does for us: the functions of this header are in vendor/sort.cu.
namespace lockstep::cuda {

// Kernels::sort and Kernels::nonzero.
void sort(const View& x, bool descending, const View& index, Queue& queue);
int64_t nonzero(const View& mask, const View& positions, Queue& queue);

// `order` becomes a permutation of 0 … count - 1 under which `keys`, all in [0, bound), ascend,
// equal ones in their order; `sorted` the keys in that order.
void sort_keys(const int64_t* keys, int64_t count, int64_t bound, int64_t* sorted, int64_t* order,
               Queue& queue);

}  // namespace lockstep::cuda
