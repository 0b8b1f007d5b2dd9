#include "lockstep/nn/optim/lamb.h"

#include <cmath>

#include "lockstep/runtime/error.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::optim {
namespace {

double length_of(const Array& x) { return std::sqrt(kernels::of(x).sum_of_squares(x.view())); }

}  // namespace

void LambOptions::check(std::span<const nn::Parameter>) const {
  LOCKSTEP_CHECK(learning_rate >= 0 && epsilon >= 0 && weight_decay >= 0, "Lamb: learning rate ",
                 learning_rate, ", epsilon ", epsilon, ", weight decay ", weight_decay,
                 ": none may be negative");
  LOCKSTEP_CHECK(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, "Lamb: beta1 ", beta1,
                 ", beta2 ", beta2, ", expected at least 0 and below 1");
}

std::vector<Optimizer::StateKind> Lamb::state_kinds(int) const {
  return {{"exp_avg"}, {"exp_avg_sq"}, {.name = "direction", .saved = false}};
}

void Lamb::prepare(Item& item) {
  const LambOptions& o = options(item.group);
  item.use(math::LambDirection{.gradient_scale = item.signed_scale(o.maximize),
                               .decay = o.weight_decay,
                               .beta1 = o.beta1,
                               .beta2 = o.beta2,
                               .epsilon = o.epsilon,
                               .inverse_correction = 1 / (1 - std::pow(o.beta1, item.step)),
                               .inverse_root = 1 / std::sqrt(1 - std::pow(o.beta2, item.step))});
}

void Lamb::finish(std::span<const Item> items) {
  for (const Item& item : items) {
    const Array &value = value_of(item), &direction = state_of(item, 2);
    const double own = length_of(value), length = length_of(direction);
    const double trust = own > 0 && length > 0 ? own / length : 1;
    kernels::scale_add(-options(item.group).learning_rate * trust, direction, 1, value);
  }
}

}  // namespace lockstep::optim
