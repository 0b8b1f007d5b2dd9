#pragma once

#include "lockstep/runtime/array.h"

namespace lockstep {

// An offer of where a result may go: the result is added to beta times what is there. An op may
// decline; whoever offers looks at the storage of what came back. Empty: a new array.
struct Into {
  Array destination = {};
  double beta = 0;

  explicit operator bool() const { return static_cast<bool>(destination); }
};

namespace kernels {

// Where an op of this result writes: the offer where it fits, else a new array with beta 0.
Into accept(const Into& offer, const Shape& shape, DType dtype, Device device);

}  // namespace kernels
}  // namespace lockstep
