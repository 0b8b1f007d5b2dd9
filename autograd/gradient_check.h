#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "lockstep/autograd/tensor.h"

// Are the gradients of a function right? (torch.autograd.gradcheck, gradgradcheck.)
namespace lockstep {

// Must give the same values for the same inputs.
using DifferentiableFunction = std::function<Tensor(const std::vector<Tensor>&)>;

struct GradientCheckOptions {
  double step = 1e-5;       // of the central differences
  double tolerance = 1e-6;  // of |analytic - numeric| / max(1, |numeric|)
  uint64_t seed = 99;       // of the weights that make one number of the output
};

struct GradientMismatch {
  int input = 0;
  int64_t element = 0;  // row-major
  double analytic = 0;
  double numeric = 0;
};

struct GradientReport {
  int64_t checked = 0;  // elements
  std::vector<GradientMismatch> mismatches;
  std::string problem;  // what made a comparison impossible; empty: nothing

  bool passed() const { return mismatches.empty() && problem.empty(); }
  explicit operator bool() const { return passed(); }
  // "all 12 gradients agree", or the first mismatches, one on a line.
  std::string to_string() const;
};

// Compares the gradients of sum(f(inputs) * weights), weights uniform in (-1, 1), by every element
// of every f64 input with central differences. Inputs of other dtypes are constants. Choose inputs
// away from kinks. Errors of f pass through.
GradientReport gradient_check(const DifferentiableFunction& f, const std::vector<Tensor>& inputs,
                              const GradientCheckOptions& options = {});

// The same for the gradients themselves: recorded, weighted, and differentiated once more.
GradientReport second_gradient_check(const DifferentiableFunction& f,
                                     const std::vector<Tensor>& inputs,
                                     const GradientCheckOptions& options = {.tolerance = 1e-5});

// An element (row-major) of a contiguous array, wherever that lies, to be changed in place behind
// autograd's back.
class SteppedElement {
 public:
  SteppedElement(const Array& array, int64_t element);
  double value() const { return place_.item(); }
  void operator=(double value) const;

 private:
  Array place_;
};

// The comparison alone: `gradients` (absent: zero; wrong shape: a problem) of the number `value()`
// by each element of `tensors`, whose values (f64, contiguous) are stepped in place and put back.
GradientReport compare_with_differences(const std::vector<Tensor>& tensors,
                                        const std::vector<Tensor>& gradients,
                                        const std::function<double()>& value,
                                        const GradientCheckOptions& options = {});

}  // namespace lockstep
