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
