#include "lockstep/nn/optim/adaptive.h"

#include "lockstep/runtime/error.h"

namespace lockstep::optim {
namespace {

template <class O>
void check_options(const char* name, const O& o) {
  LOCKSTEP_CHECK(o.learning_rate >= 0 && o.epsilon >= 0 && o.weight_decay >= 0, name,
                 ": learning rate ", o.learning_rate, ", epsilon ", o.epsilon, ", weight decay ",
                 o.weight_decay, ": none may be negative");
}

}  // namespace

void AdagradOptions::check(std::span<const nn::Parameter>) const {
  check_options("Adagrad", *this);
  LOCKSTEP_CHECK(learning_rate_decay >= 0 && initial_accumulator_value >= 0,
                 "Adagrad: learning rate decay ", learning_rate_decay, ", initial accumulator ",
                 initial_accumulator_value, ": none may be negative");
}

std::vector<Optimizer::StateKind> Adagrad::state_kinds(int group) const {
  return {{"sum", options(group).initial_accumulator_value}};
}

void Adagrad::prepare(Item& item) {
  const AdagradOptions& o = options(item.group);
  item.use(
      math::AdagradUpdate{.gradient_scale = item.signed_scale(o.maximize),
                          .decay = o.weight_decay,
                          .rate = o.learning_rate / (1 + (item.step - 1) * o.learning_rate_decay),
                          .epsilon = o.epsilon});
}

void RMSpropOptions::check(std::span<const nn::Parameter>) const {
  check_options("RMSprop", *this);
  LOCKSTEP_CHECK(alpha >= 0 && momentum >= 0, "RMSprop: alpha ", alpha, ", momentum ", momentum,
                 ": none may be negative");
}

std::vector<Optimizer::StateKind> RMSprop::state_kinds(int group) const {
  std::vector<StateKind> kinds{{"square_avg"}};
  if (options(group).centered) kinds.push_back({"grad_avg"});
  if (options(group).momentum > 0) kinds.push_back({"momentum_buffer"});
  return kinds;
}

void RMSprop::prepare(Item& item) {
  const RMSpropOptions& o = options(item.group);
  const auto use = [&]<bool kCentered, bool kMomentum>() {
    item.use(
        math::RmspropUpdate<kCentered, kMomentum>{.gradient_scale = item.signed_scale(o.maximize),
                                                  .decay = o.weight_decay,
                                                  .rate = o.learning_rate,
                                                  .alpha = o.alpha,
                                                  .epsilon = o.epsilon,
                                                  .momentum = o.momentum});
  };
  if (o.centered) {
    o.momentum > 0 ? use.operator()<true, true>() : use.operator()<true, false>();
  } else {
    o.momentum > 0 ? use.operator()<false, true>() : use.operator()<false, false>();
  }
}

void AdadeltaOptions::check(std::span<const nn::Parameter>) const {
  check_options("Adadelta", *this);
  LOCKSTEP_CHECK(rho >= 0 && rho <= 1, "Adadelta: rho ", rho, ", expected 0 to 1");
}

std::vector<Optimizer::StateKind> Adadelta::state_kinds(int) const {
  return {{"square_avg"}, {"acc_delta"}};
}

void Adadelta::prepare(Item& item) {
  const AdadeltaOptions& o = options(item.group);
  item.use(math::AdadeltaUpdate{.gradient_scale = item.signed_scale(o.maximize),
                                .decay = o.weight_decay,
                                .rate = o.learning_rate,
                                .rho = o.rho,
                                .epsilon = o.epsilon});
}

}  // namespace lockstep::optim
