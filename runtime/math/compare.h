#pragma once

#include "lockstep/runtime/math/functor.h"

namespace lockstep::math {

struct Eq {
  static constexpr const char* name = "eq";
  template <class T>
  LOCKSTEP_HD bool operator()(const T& a, const T& b) const {
    return a == b;
  }
};

struct Ne {
  static constexpr const char* name = "ne";
  template <class T>
  LOCKSTEP_HD bool operator()(const T& a, const T& b) const {
    return a != b;
  }
};

struct Lt {
  static constexpr const char* name = "lt";
  template <class T>
  LOCKSTEP_HD bool operator()(const T& a, const T& b) const {
    return a < b;
  }
};

struct Le {
  static constexpr const char* name = "le";
  template <class T>
  LOCKSTEP_HD bool operator()(const T& a, const T& b) const {
    return a <= b;
  }
};

struct Gt {
  static constexpr const char* name = "gt";
  template <class T>
  LOCKSTEP_HD bool operator()(const T& a, const T& b) const {
    return a > b;
  }
};

struct Ge {
  static constexpr const char* name = "ge";
  template <class T>
  LOCKSTEP_HD bool operator()(const T& a, const T& b) const {
    return a >= b;
  }
};

// The order is the index in every table. Append.
using CompareOps = TypeList<Eq, Ne, Lt, Le, Gt, Ge>;

}  // namespace lockstep::math
