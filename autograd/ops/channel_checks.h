#pragma once

#include "lockstep/autograd/ops/check.h"
#include "lockstep/autograd/ops/shape.h"

namespace lockstep::internal {

// x [batch, channels, …], floating; what is given of `vectors` is [channels], floating.
inline void check_channels(const char* name, const Tensor& x,
                           std::initializer_list<const Array*> vectors) {
  check_floating(name, x);
  LOCKSTEP_CHECK(x.rank() >= 2, name, ": x of shape ", x.shape(),
                 ", expected [batch, channels, …]");
  for (const Array* vector : vectors) {
    LOCKSTEP_CHECK(!*vector || (vector->shape() == Shape{x.dim(1)} &&
                                is_floating(vector->dtype()) && vector->device() == x.device()),
                   name, ": a weight, bias or statistic of shape ", vector->shape(), " ",
                   vector->dtype(), ", expected a floating one of [", x.dim(1),
                   "] on x's device: one value a channel");
  }
}

// [channels] as it broadcasts to x.
inline Tensor along_channels(const Tensor& vector, const Tensor& x) {
  Shape shape = Shape::filled(x.rank(), 1);
  shape[1] = x.dim(1);
  return reshape(vector, shape);
}

}  // namespace lockstep::internal
