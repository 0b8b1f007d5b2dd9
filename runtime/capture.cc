#include "lockstep/runtime/capture.h"

namespace lockstep {

Array Uploads::next(const Shape& shape, DType dtype, Device device) {
  const size_t place = next_++;
  if (place == places_.size()) places_.emplace_back();
  Array& array = places_[place];
  if (!array || array.shape() != shape || array.dtype() != dtype || array.device() != device) {
    array = Array::empty(shape, dtype, device);
    moved_ = true;
  }
  array.storage()->bump_version();
  return array;
}

}  // namespace lockstep
