#include "lockstep/nn/optim/grad_scaler.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "lockstep/autograd/ops.h"
#include "lockstep/nn/optim/clip.h"
#include "lockstep/runtime/error.h"

namespace lockstep::optim {
namespace {

// PyTorch holds the scale in f32, which shows where a factor is no power of two.
double rounded(double scale) { return static_cast<float>(scale); }

}  // namespace

void GradScalerOptions::check() const {
  LOCKSTEP_CHECK(init_scale > 0 && std::isfinite(rounded(init_scale)), "GradScaler: init_scale ",
                 init_scale, ", expected above 0, and finite in f32");
  LOCKSTEP_CHECK(growth_factor > 1, "GradScaler: growth_factor ", growth_factor,
                 ", expected above 1");
  LOCKSTEP_CHECK(backoff_factor > 0 && backoff_factor < 1, "GradScaler: backoff_factor ",
                 backoff_factor, ", expected between 0 and 1");
  LOCKSTEP_CHECK(growth_interval > 0, "GradScaler: growth_interval ", growth_interval,
                 ", expected above 0");
}

GradScaler::GradScaler(Options options)
    : options_(options), state_{.scale = rounded(options.init_scale)} {
  options_.check();
}

Tensor GradScaler::scale(const Tensor& loss) const {
  // In 16 bits the product itself would overflow.
  const bool narrow = loss.dtype() == DType::f16 || loss.dtype() == DType::bf16;
  return (narrow ? to(loss, DType::f32) : loss) * Tensor(Scalar(state_.scale));
}

bool GradScaler::step(Optimizer& optimizer, double norm, double gradient_scale) {
  LOCKSTEP_CHECK(std::find(stepped_.begin(), stepped_.end(), &optimizer) == stepped_.end(),
                 "GradScaler: step() of this optimizer has been called since the last update()");
  stepped_.push_back(&optimizer);
  if (!std::isfinite(norm)) {
    overflowed_ = true;
    return false;
  }
  optimizer.step(gradient_scale / state_.scale);
  return true;
}

bool GradScaler::step(Optimizer& optimizer) {
  return step(optimizer, gradient_norm(optimizer.parameters()));
}

void GradScaler::update() {
  LOCKSTEP_CHECK(!stepped_.empty(), "GradScaler: update() without a step() since the last one");
  stepped_.clear();
  if (std::exchange(overflowed_, false)) {
    state_ = {.scale = rounded(state_.scale * options_.backoff_factor)};
  } else if (++state_.growth_tracker == options_.growth_interval) {
    const double grown = rounded(state_.scale * options_.growth_factor);
    state_ = {.scale = std::isfinite(grown) ? grown : state_.scale};
  }
}

void GradScaler::load_state(const State& state) {
  LOCKSTEP_CHECK(state.scale > 0 && std::isfinite(state.scale) && state.growth_tracker >= 0,
                 "GradScaler: a state with scale ", state.scale, " and ", state.growth_tracker,
                 " good steps");
  state_ = state;
}

}  // namespace lockstep::optim
