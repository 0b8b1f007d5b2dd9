#include "lockstep/nn/parallel/flat_layout.h"

namespace lockstep::nn {

FlatLayout FlatLayout::pack(const std::vector<Shape>& shapes, const std::vector<int>& order,
                            DType dtype, const BucketSizes& sizes) {
  const int64_t item = static_cast<int64_t>(size_of(dtype));
  const int64_t alignment = 64 / item;
  const auto elements_of = [&](double mb) { return static_cast<int64_t>(mb * (1 << 20)) / item; };
  const auto padded = [&](int i) {
    return (shapes[i].elements() + alignment - 1) / alignment * alignment;
  };
  FlatLayout layout;
  layout.offsets.resize(shapes.size());
  layout.bucket_of.resize(shapes.size());
  int64_t left = 0;  // elements of the tensors not yet placed
  for (int i : order) left += padded(i);
  const int64_t first = elements_of(sizes.first_mb);
  const int64_t other = elements_of(sizes.other_of(mb_of(left * item)));
  const int64_t last = elements_of(sizes.last_mb);
  for (int i : order) {
    std::vector<Bucket>& buckets = layout.buckets;
    const bool open = !buckets.empty();
    const int64_t limit = buckets.size() <= 1 ? first : other;
    const bool full = open && buckets.back().elements >= limit;
    // The tail gets a bucket of its own as soon as it is small enough.
    const bool tail = open && left <= last && buckets.back().elements > last;
    if (!open || full || tail) buckets.push_back({.offset = layout.elements});
    layout.offsets[i] = layout.elements;
    layout.bucket_of[i] = static_cast<int>(buckets.size()) - 1;
    buckets.back().members.push_back(i);
    buckets.back().elements += padded(i);
    layout.elements += padded(i);
    left -= padded(i);
  }
  return layout;
}

Array FlatLayout::window(const Array& flat, int i, const Shape& shape) const {
  return Array(flat.storage(), flat.dtype(), shape, contiguous_strides(shape),
               flat.offset() + offsets[i]);
}

Array FlatLayout::bucket(const Array& flat, int index) const {
  return flat.narrow(0, buckets[index].offset, buckets[index].elements);
}

}  // namespace lockstep::nn
