#pragma once

#include <iosfwd>
#include <string>

#include "lockstep/autograd/tensor.h"

namespace lockstep {

// As PyTorch prints: "tensor([[1., 2.],\n        [3., 4.]])". Four digits after the point,
// scientific where the values' sizes call for it, the edges only of more than 1000 elements; then
// the device, the dtype where it is not f32, i64 or bool, and what gradients need. Waits for the
// device.
std::string to_string(const Tensor& x);
std::ostream& operator<<(std::ostream& stream, const Tensor& x);
std::ostream& operator<<(std::ostream& stream, DType dtype);         // "f32"
std::ostream& operator<<(std::ostream& stream, const Shape& shape);  // "[2, 3]"

}  // namespace lockstep
