#include "conformance/layout.h"

#include <vector>

#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::conformance {

Array dense_copy(const Array& array) { return kernels::copy(array); }

Array strided_copy(const Array& array) {
  const int rank = array.rank();
  if (rank == kMaxRank) return kernels::copy(array);
  // The memory: reversed, with a dimension of 2 at the end and a margin in the first one.
  Shape reversed;
  std::vector<int> order;
  for (int i = rank - 1; i >= 0; --i) {
    reversed.append(array.dim(i));
    order.push_back(i);
  }
  if (rank > 0) reversed[0] += 1;
  reversed.append(2);
  const Array memory = Array::full(reversed, 77, array.dtype(), array.device());
  Array window = memory.select(rank, 1);
  if (rank > 0) window = window.narrow(0, 1, reversed[0] - 1);
  window = window.permute(order);
  kernels::copy_into(array, window);
  return window;
}

}  // namespace lockstep::conformance
