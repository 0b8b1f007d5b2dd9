#pragma once

#include <span>

#include "lockstep/nn/parameter.h"

namespace lockstep::optim {

// All of these but clip_factor throw Error while a gradient is not reduced over the ranks.

// The norm of all gradients together, as of one vector; those of frozen parameters are not counted.
// norm_type is above 0 or infinity. The 2-norm is summed in double, in an order that depends on the
// list alone. Infinite or NaN where a gradient is. A collective call where parameters are sharded.
double gradient_norm(std::span<const nn::Parameter> parameters, double norm_type = 2);

// What to multiply gradients by so that their norm is at most `max_norm`:
// min(1, max_norm / (norm + 1e-6)), NaN where the norm is. max_norm 0: no clipping.
double clip_factor(double norm, double max_norm);

struct ClipOptions {
  double norm_type = 2;
  bool error_if_nonfinite = false;
};

// Scales the gradients in place, as PyTorch's clip_grad_norm_, and returns their norm before. A
// norm that is not finite goes on into the gradients, or throws Error where it is told to; a
// max_norm of 0 makes them 0.
double clip_grad_norm(std::span<const nn::Parameter> parameters, double max_norm,
                      ClipOptions options = {});

// Holds every element of the gradients within [-clip_value, clip_value], in place. NaN stays.
void clip_grad_value(std::span<const nn::Parameter> parameters, double clip_value);

}  // namespace lockstep::optim
