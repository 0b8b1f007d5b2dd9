#pragma once

#include <cstdint>
#include <vector>

#include "lockstep/autograd/tensor.h"
#include "lockstep/nn/optim/optimizer.h"

namespace lockstep::optim {

struct GradScalerOptions {
  double init_scale = 65536;
  double growth_factor = 2;
  double backoff_factor = 0.5;
  int64_t growth_interval = 2000;  // steps without overflow after which the scale grows

  // Throws Error for what makes no sense.
  void check() const;
};

// Dynamic loss scaling for f16, whose smallest gradients would round to zero: torch.amp.GradScaler.
//
//   scaler.scale(loss).backward();
//   scaler.step(optimizer);  // nothing where a gradient is infinite or NaN
//   scaler.update();         // the scale falls then; after growth_interval good steps it grows
//
// Gradients are not unscaled in place: the optimizer's kernel divides them. Over several ranks each
// has a scaler; as they see the same reduced gradients, all skip the same steps.
class GradScaler {
 public:
  using Options = GradScalerOptions;
  explicit GradScaler(Options options = {});

  double scale() const { return state_.scale; }
  // loss * scale
  Tensor scale(const Tensor& loss) const;

  // One step with the gradients divided by the scale and times `gradient_scale`, or none where
  // their norm is not finite. Returns whether it was made. `norm` is that of the gradients as they
  // are, for who knows it, for example to clip:
  //
  //   const double norm = gradient_norm(optimizer.parameters());
  //   scaler.step(optimizer, norm, clip_factor(norm / scaler.scale(), max_norm));
  //
  // Throws Error where this optimizer has had its step since the last update().
  bool step(Optimizer& optimizer, double norm, double gradient_scale = 1);
  bool step(Optimizer& optimizer);
  // Once a step, after those of all optimizers. Throws Error where there was none.
  void update();

  // What a run needs to go on, besides the options.
  struct State {
    double scale = 0;
    int64_t growth_tracker = 0;  // good steps since the scale has changed
  };
  const State& state() const { return state_; }
  void load_state(const State& state);

 private:
  Options options_;
  State state_;
  std::vector<const Optimizer*> stepped_;  // since the last update
  bool overflowed_ = false;                // one of them
};

}  // namespace lockstep::optim
