#include "lockstep/nn/optim/sgd.h"

#include "lockstep/runtime/error.h"

namespace lockstep::optim {

void SGDOptions::check(std::span<const nn::Parameter>) const {
  LOCKSTEP_CHECK(learning_rate >= 0 && momentum >= 0 && weight_decay >= 0, "SGD: learning rate ",
                 learning_rate, ", momentum ", momentum, ", weight decay ", weight_decay,
                 ": none may be negative");
  LOCKSTEP_CHECK(!nesterov || (momentum > 0 && dampening == 0),
                 "SGD: Nesterov momentum needs a momentum and no dampening");
}

std::vector<Optimizer::StateKind> SGD::state_kinds(int group) const {
  if (options(group).momentum == 0) return {};
  return {{"momentum_buffer"}};
}

void SGD::prepare(Item& item) {
  const SGDOptions& o = options(item.group);
  const double scale = item.signed_scale(o.maximize);
  if (o.momentum == 0) {
    item.use(
        math::SgdUpdate{.gradient_scale = scale, .decay = o.weight_decay, .rate = o.learning_rate});
    return;
  }
  const bool first = item.step == 1;
  item.use(math::MomentumUpdate{.gradient_scale = scale,
                                .decay = o.weight_decay,
                                .rate = o.learning_rate,
                                .momentum = first ? 0 : o.momentum,
                                .share = first ? 1 : 1 - o.dampening,
                                .direct = o.nesterov ? 1.0 : 0.0,
                                .through_buffer = o.nesterov ? o.momentum : 1});
}

}  // namespace lockstep::optim
