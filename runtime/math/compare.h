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

// What is not 0 is true, NaN too.
struct LogicalAnd {
  static constexpr const char* name = "logical_and";
  template <class T>
  LOCKSTEP_HD bool operator()(const T& a, const T& b) const {
    return (a != T(0.0)) & (b != T(0.0));
  }
};

struct LogicalOr {
  static constexpr const char* name = "logical_or";
  template <class T>
  LOCKSTEP_HD bool operator()(const T& a, const T& b) const {
    return (a != T(0.0)) | (b != T(0.0));
  }
};

struct LogicalXor {
  static constexpr const char* name = "logical_xor";
  template <class T>
  LOCKSTEP_HD bool operator()(const T& a, const T& b) const {
    return (a != T(0.0)) != (b != T(0.0));
  }
};

// The order is the index in every table. Append.
using CompareOps = TypeList<Eq, Ne, Lt, Le, Gt, Ge, LogicalAnd, LogicalOr, LogicalXor>;

}  // namespace lockstep::math
