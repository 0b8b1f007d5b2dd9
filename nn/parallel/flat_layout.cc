#include "lockstep/nn/parallel/flat_layout.h"

namespace lockstep::nn {

FlatLayout FlatLayout::pack(const std::vector<Shape>& shapes, DType dtype,
                            const BucketSizes& sizes) {
  const int64_t item = static_cast<int64_t>(size_of(dtype));
  const int64_t alignment = 64 / item;
  const auto elements_of = [&](double mb) { return static_cast<int64_t>(mb * (1 << 20)) / item; };
  const auto padded = [&](const Shape& shape) {
    return (shape.elements() + alignment - 1) / alignment * alignment;
  };
  int64_t left = 0;  // elements of the tensors not yet placed
  for (const Shape& shape : shapes) left += padded(shape);

  FlatLayout layout;
  for (const Shape& shape : shapes) {
    const bool first = layout.bucket_elements.size() <= 1;
    const int64_t limit = elements_of(first ? sizes.first_mb : sizes.other_mb);
    const int64_t last = elements_of(sizes.last_mb);
    const bool open = !layout.bucket_elements.empty();
    const bool full = open && layout.bucket_elements.back() >= limit;
    // The tail gets a bucket of its own as soon as it is small enough.
    const bool tail = open && left <= last && layout.bucket_elements.back() > last;
    if (!open || full || tail) layout.bucket_elements.push_back(0);
    const int bucket = static_cast<int>(layout.bucket_elements.size()) - 1;
    layout.places.push_back({bucket, layout.bucket_elements.back()});
    layout.bucket_elements.back() += padded(shape);
    left -= padded(shape);
  }
  return layout;
}

Array FlatLayout::window(const std::vector<Array>& buckets, int i, const Shape& shape) const {
  const Array& flat = buckets[places[i].bucket];
  return Array(flat.storage(), flat.dtype(), shape, contiguous_strides(shape),
               flat.offset() + places[i].offset);
}

}  // namespace lockstep::nn
