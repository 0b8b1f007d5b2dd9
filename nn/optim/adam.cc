#include "lockstep/nn/optim/adam.h"

#include <cmath>

#include "lockstep/runtime/error.h"

namespace lockstep::optim {
namespace {

template <class O>
void check_options(const char* name, const O& o) {
  LOCKSTEP_CHECK(o.learning_rate >= 0 && o.epsilon >= 0 && o.weight_decay >= 0, name,
                 ": learning rate ", o.learning_rate, ", epsilon ", o.epsilon, ", weight decay ",
                 o.weight_decay, ": none may be negative");
  LOCKSTEP_CHECK(o.beta1 >= 0 && o.beta1 < 1 && o.beta2 >= 0 && o.beta2 < 1, name, ": beta1 ",
                 o.beta1, ", beta2 ", o.beta2, ", expected at least 0 and below 1");
}

// What the functors of this family have in common.
template <class F, class O>
F common(const O& o, double gradient_scale, bool decoupled) {
  F f{};
  f.gradient_scale = gradient_scale;
  f.decay = decoupled ? 0 : o.weight_decay;
  f.parameter_scale = decoupled ? 1 - o.learning_rate * o.weight_decay : 1;
  f.beta1 = o.beta1;
  f.beta2 = o.beta2;
  f.epsilon = o.epsilon;
  return f;
}

// 1 - beta^t
double correction(double beta, double step) { return 1 - std::pow(beta, step); }

template <bool kAmsgrad, class O>
math::AdamUpdate<kAmsgrad> adam_update(const O& o, double gradient_scale, bool decoupled,
                                       double step) {
  auto f = common<math::AdamUpdate<kAmsgrad>>(o, gradient_scale, decoupled);
  f.step_size = o.learning_rate / correction(o.beta1, step);
  f.inverse_root = 1 / std::sqrt(correction(o.beta2, step));
  return f;
}

}  // namespace

void AdamOptions::check(std::span<const nn::Parameter>) const { check_options("Adam", *this); }

std::vector<Optimizer::StateKind> Adam::state_kinds(int group) const {
  if (options(group).amsgrad) return {{"exp_avg"}, {"exp_avg_sq"}, {"max_exp_avg_sq"}};
  return {{"exp_avg"}, {"exp_avg_sq"}};
}

void Adam::prepare(Item& item) {
  const AdamOptions& o = options(item.group);
  const double scale = item.signed_scale(o.maximize);
  if (o.amsgrad) {
    item.use(adam_update<true>(o, scale, o.decoupled_weight_decay, item.step));
  } else {
    item.use(adam_update<false>(o, scale, o.decoupled_weight_decay, item.step));
  }
}

void AdamWOptions::check(std::span<const nn::Parameter>) const { check_options("AdamW", *this); }

std::vector<Optimizer::StateKind> AdamW::state_kinds(int group) const {
  if (options(group).amsgrad) return {{"exp_avg"}, {"exp_avg_sq"}, {"max_exp_avg_sq"}};
  return {{"exp_avg"}, {"exp_avg_sq"}};
}

void AdamW::prepare(Item& item) {
  const AdamWOptions& o = options(item.group);
  const double scale = item.signed_scale(o.maximize);
  if (o.amsgrad) {
    item.use(adam_update<true>(o, scale, true, item.step));
  } else {
    item.use(adam_update<false>(o, scale, true, item.step));
  }
}

void NAdamOptions::check(std::span<const nn::Parameter>) const {
  check_options("NAdam", *this);
  LOCKSTEP_CHECK(momentum_decay >= 0, "NAdam: momentum decay ", momentum_decay, " is negative");
}

std::vector<Optimizer::StateKind> NAdam::state_kinds(int) const {
  return {{"exp_avg"}, {"exp_avg_sq"}};
}

void NAdam::prepare(Item& item) {
  const NAdamOptions& o = options(item.group);
  const auto momentum_at = [&](double step) {
    return o.beta1 * (1 - 0.5 * std::pow(0.96, step * o.momentum_decay));
  };
  const double mu = momentum_at(item.step), next = momentum_at(item.step + 1);
  double& product = scalar_of(item, 1);
  // Kept in f32 by PyTorch, which shows in the ninth digit of a step.
  product = static_cast<float>(product) * static_cast<float>(mu);
  auto f = common<math::NadamUpdate>(o, item.signed_scale(o.maximize), o.decoupled_weight_decay);
  f.gradient_step = o.learning_rate * (1 - mu) / (1 - product);
  f.moment_step = o.learning_rate * next / (1 - product * next);
  f.inverse_root = 1 / std::sqrt(correction(o.beta2, item.step));
  item.use(f);
}

void RAdamOptions::check(std::span<const nn::Parameter>) const { check_options("RAdam", *this); }

std::vector<Optimizer::StateKind> RAdam::state_kinds(int) const {
  return {{"exp_avg"}, {"exp_avg_sq"}};
}

void RAdam::prepare(Item& item) {
  const RAdamOptions& o = options(item.group);
  auto f = common<math::RadamUpdate>(o, item.signed_scale(o.maximize), o.decoupled_weight_decay);
  f.step_size = o.learning_rate / correction(o.beta1, item.step);
  // The length of the averaging window, in the limit and at this step.
  const double limit = 2 / (1 - o.beta2) - 1;
  const double second = correction(o.beta2, item.step);
  const double length = limit - 2 * item.step * (1 - second) / second;
  if (length > 5) {
    const double variance =
        (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length);
    f.rectification = std::sqrt(variance) * std::sqrt(second);
  }
  item.use(f);
}

}  // namespace lockstep::optim
