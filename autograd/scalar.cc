#include "lockstep/autograd/scalar.h"

#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep {

int64_t Scalar::to_integer() const {
  LOCKSTEP_CHECK(dtype_ != DType::f64, "the number ", floating_, " given, expected an integer");
  return integer_;
}

Array Scalar::to_array(DType dtype, Device device) const {
  if (dtype_ == DType::f64 || is_floating(dtype)) {
    return Array::full({}, to_double(), dtype, device);
  }
  return kernels::cast(Array::from<int64_t>({integer_}, {}, device), dtype);
}

}  // namespace lockstep
