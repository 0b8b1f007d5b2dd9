#pragma once

#include <vector>

#include "lockstep/runtime/math/binary.h"
#include "lockstep/runtime/math/compare.h"
#include "lockstep/runtime/math/probe.h"
#include "lockstep/runtime/math/unary.h"

namespace lockstep::testing {

// The listed functors in double, as plain functions: tests loop over them without a template each.
inline constexpr double kAttributes[2] = {0.3, 1.75};

struct UnaryCase {
  const char* name;
  int index;
  double (*value)(double x);
  double (*grad)(double x, double y);
  math::Reads reads;
};

struct BinaryCase {
  const char* name;
  int index;
  double (*value)(double a, double b);
  double (*grad[2])(double a, double b, double out);
  math::Reads reads[2];
};

struct CompareCase {
  const char* name;
  int index;
  bool (*value)(double a, double b);
};

inline std::vector<UnaryCase> unary_cases() {
  std::vector<UnaryCase> cases;
  math::for_each(math::UnaryOps{}, [&]<class F>() {
    cases.push_back(
        {F::name, math::index_of<math::UnaryOps, F>,
         [](double x) { return math::make_functor<F>(kAttributes)(x); },
         [](double x, double y) { return math::make_functor<F>(kAttributes).grad(x, y)[0]; },
         math::reads_of<F>()});
  });
  return cases;
}

inline std::vector<BinaryCase> binary_cases() {
  std::vector<BinaryCase> cases;
  math::for_each(math::BinaryOps{}, [&]<class F>() {
    cases.push_back({F::name,
                     math::index_of<math::BinaryOps, F>,
                     [](double a, double b) { return F{}(a, b); },
                     {[](double a, double b, double out) { return F{}.grad(a, b, out)[0]; },
                      [](double a, double b, double out) { return F{}.grad(a, b, out)[1]; }},
                     {math::reads_of<F>(0), math::reads_of<F>(1)}});
  });
  return cases;
}

inline std::vector<CompareCase> compare_cases() {
  std::vector<CompareCase> cases;
  math::for_each(math::CompareOps{}, [&]<class F>() {
    cases.push_back({F::name, math::index_of<math::CompareOps, F>,
                     [](double a, double b) { return F{}(a, b); }});
  });
  return cases;
}

}  // namespace lockstep::testing
