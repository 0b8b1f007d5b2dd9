#include "lockstep/runtime/cuda/sort.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "lockstep/runtime/cuda/grid.h"
#include "lockstep/runtime/cuda/kernels/sort_keys.h"

// Stands in for vendor/sort.cu.
namespace lockstep::cuda {
namespace {

template <class T>
void sort_rows(const View& x, bool descending, const View& index) {
  const int64_t width = x.shape[1], kept = index.shape[1];
  std::vector<int64_t> places(static_cast<size_t>(width));
  for (int64_t row = 0; row < x.shape[0]; ++row) {
    const T* values = x.as<T>() + row * width;
    std::iota(places.begin(), places.end(), 0);
    std::stable_sort(places.begin(), places.end(), [&](int64_t a, int64_t b) {
      return key_of(values[a], descending) < key_of(values[b], descending);
    });
    std::copy_n(places.begin(), kept, index.as<int64_t>() + row * kept);
  }
}

}  // namespace

void sort(const View& x, bool descending, const View& index, Queue& queue) {
  if (index.elements() == 0) return;
  if (is_captured(queue.stream())) {
    return queue.refuse_capture("sorting on the simulated device");
  }
  const DeviceAccess access;
  switch (x.dtype) {
    case DType::f64: return sort_rows<double>(x, descending, index);
    case DType::f32: return sort_rows<float>(x, descending, index);
    case DType::bf16: return sort_rows<BFloat16>(x, descending, index);
    case DType::f16: return sort_rows<Float16>(x, descending, index);
    case DType::i64: return sort_rows<int64_t>(x, descending, index);
    case DType::i32: return sort_rows<int32_t>(x, descending, index);
    default: return sort_rows<uint8_t>(x, descending, index);
  }
}

int64_t nonzero(const View& mask, const View& positions, Queue& queue) {
  queue.refuse_capture("nonzero");
  const DeviceAccess access;
  const int64_t room = positions.data == nullptr ? 0 : positions.elements();
  int64_t found = 0;
  for (int64_t i = 0; i < mask.elements(); ++i) {
    if (mask.as<uint8_t>()[i] == 0) continue;
    if (found < room) positions.as<int64_t>()[found] = i;
    ++found;
  }
  return found;
}

void sort_keys(const int64_t* keys, int64_t count, int64_t, int64_t* sorted, int64_t* order,
               Queue& queue) {
  do_or_write_down(queue.stream(), [=] {
    const DeviceAccess access;
    std::iota(order, order + count, 0);
    std::stable_sort(order, order + count, [&](int64_t a, int64_t b) { return keys[a] < keys[b]; });
    for (int64_t i = 0; i < count; ++i) sorted[i] = keys[order[i]];
  });
}

}  // namespace lockstep::cuda
