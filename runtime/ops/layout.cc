#include "lockstep/runtime/ops/layout.h"

#include "lockstep/runtime/ops/convolution.h"

namespace lockstep::kernels {

Array empty_elementwise(std::initializer_list<const Array*> operands, const Shape& shape,
                        DType dtype, Device device) {
  for (const Array* operand : operands) {
    if (!*operand || operand->shape() != shape) continue;
    if (operand->contiguous()) break;
    if (is_channels_last(*operand)) return empty_image({shape, true}, dtype, device);
  }
  return Array::empty(shape, dtype, device);
}

namespace {

constexpr int64_t kBoundary = 128, kAccess = 16;  // bytes
constexpr int64_t kShortest = 512;

// How far apart rows of this width are.
int64_t row_distance(int64_t width, DType dtype, Device device) {
  const auto size = static_cast<int64_t>(size_of(dtype));
  const bool narrow_type = is_floating(dtype) && dtype != DType::f64;
  if (device.kind == DeviceKind::cpu || !narrow_type || width < kShortest ||
      width * size % kAccess == 0) {
    return width;
  }
  const int64_t step = kBoundary / size;
  return (width + step - 1) / step * step;
}

}  // namespace

Array empty_rows(const Shape& shape, DType dtype, Device device) {
  const int last = shape.rank() - 1;
  Shape padded = shape;
  padded[last] = row_distance(shape[last], dtype, device);
  return Array::empty(padded, dtype, device).narrow(last, 0, shape[last]);
}

bool has_padded_rows(const Array& x) {
  if (!x || x.rank() == 0 || x.offset() != 0) return false;
  const int64_t width = x.dim(-1), distance = row_distance(width, x.dtype(), x.device());
  if (distance == width) return false;
  int64_t expected = distance;
  for (int i = x.rank() - 2; i >= 0; --i) {
    if (x.dim(i) != 1 && x.strides()[i] != expected) return false;
    expected *= x.dim(i);
  }
  return x.strides()[x.rank() - 1] == 1 &&
         x.storage()->bytes() == static_cast<size_t>(expected) * size_of(x.dtype());
}

bool has_separate_rows(const Array& x) {
  if (!x || x.rank() != 2) return false;
  const bool dense = x.dim(1) <= 1 || x.strides()[1] == 1;
  return dense && (x.dim(0) <= 1 || x.strides()[0] >= x.dim(1));
}

bool same_channels_last(std::initializer_list<const Array*> arrays) {
  const Array* first = nullptr;
  for (const Array* array : arrays) {
    if (!*array) continue;
    if (first == nullptr) {
      if (array->contiguous() || !is_channels_last(*array)) return false;
      first = array;
    }
    if (array->shape() != first->shape() || array->strides() != first->strides()) return false;
  }
  return first != nullptr;
}

View run_of(const Array& x) {
  View view;
  if (!x) return view;
  view.data = x.data();
  view.dtype = x.dtype();
  view.rank = 1;
  view.shape[0] = x.elements();
  view.strides[0] = 1;
  return view;
}

}  // namespace lockstep::kernels
