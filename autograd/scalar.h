#pragma once

#include <concepts>
#include <cstdint>
#include <utility>

#include "lockstep/runtime/array.h"

namespace lockstep {

// A number in a formula: a bool, an integer or a floating value, made implicitly from any of them.
// It is weak: what it meets keeps its dtype unless the number is of a higher category (bool <
// integer < floating), see promotion.h.
class Scalar {
 public:
  Scalar(bool value) : dtype_(DType::boolean), integer_(value) {}
  template <std::integral T>
  requires(!std::same_as<T, bool>) Scalar(T value)
      : dtype_(DType::i64), integer_(static_cast<int64_t>(value)) {
    LOCKSTEP_CHECK(std::in_range<int64_t>(+value), "a number above the largest of i64");
  }
  template <std::floating_point T>
  Scalar(T value) : dtype_(DType::f64), floating_(static_cast<double>(value)) {}

  // boolean, i64 or f64.
  DType dtype() const { return dtype_; }
  double to_double() const {
    return dtype_ == DType::f64 ? floating_ : static_cast<double>(integer_);
  }
  // Of a bool or an integer.
  int64_t to_integer() const;

  // A rank-0 array of the value, rounded to `dtype`; integers wrap into narrower ones.
  Array to_array(DType dtype, Device device = {}) const;

 private:
  DType dtype_;
  union {
    int64_t integer_;
    double floating_;
  };
};

}  // namespace lockstep
