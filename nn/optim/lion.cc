#include "lockstep/nn/optim/lion.h"

#include "lockstep/runtime/error.h"

namespace lockstep::optim {

void LionOptions::check(std::span<const nn::Parameter>) const {
  LOCKSTEP_CHECK(learning_rate >= 0 && weight_decay >= 0, "Lion: learning rate ", learning_rate,
                 ", weight decay ", weight_decay, ": none may be negative");
  LOCKSTEP_CHECK(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, "Lion: beta1 ", beta1,
                 ", beta2 ", beta2, ", expected at least 0 and below 1");
}

std::vector<Optimizer::StateKind> Lion::state_kinds(int) const { return {{"exp_avg"}}; }

void Lion::prepare(Item& item) {
  const LionOptions& o = options(item.group);
  item.use(math::LionUpdate{.gradient_scale = item.signed_scale(o.maximize),
                            .parameter_scale = 1 - o.learning_rate * o.weight_decay,
                            .rate = o.learning_rate,
                            .beta1 = o.beta1,
                            .beta2 = o.beta2});
}

}  // namespace lockstep::optim
