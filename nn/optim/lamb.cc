#include "lockstep/nn/optim/lamb.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "lockstep/runtime/error.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::optim {

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
  item.run.copy = nullptr;  // finish() makes the step
}

void Lamb::finish(std::span<const Item> items) {
  // Squared lengths of value and direction; of sharded parameters all ranks' slices count.
  std::vector<Array> vectors;
  for (const Item& item : items) {
    vectors.push_back(value_of(item));
    vectors.push_back(state_of(item, 2));
  }
  std::vector<double> squares = kernels::sums_of_squares(vectors);
  for (nn::ShardOwner* owner : nn::shard_owners(parameters())) {
    std::vector<double> sums = squares;
    owner->sum(sums);
    for (size_t i = 0; i < items.size(); ++i) {
      const nn::Shard* shard = parameter_of(items[i]).shard();
      if (shard && shard->owner == owner) std::copy_n(&sums[2 * i], 2, &squares[2 * i]);
    }
  }
  const double* square = squares.data();
  for (const Item& item : items) {
    const Array &value = value_of(item), &direction = state_of(item, 2);
    const double own = std::sqrt(*square++), length = std::sqrt(*square++);
    const double trust = own > 0 && length > 0 ? own / length : 1;
    kernels::scale_add(-options(item.group).learning_rate * trust, direction, 1, value);
  }
}

}  // namespace lockstep::optim
