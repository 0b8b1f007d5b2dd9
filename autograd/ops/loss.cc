#include "lockstep/autograd/ops/loss.h"

#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/function.h"
#include "lockstep/autograd/ops/check.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/index.h"
#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/autograd/record.h"

namespace lockstep {
namespace {

void check_pair(const char* name, const Tensor& x, const Tensor& target) {
  internal::check_floating(name, x);
  internal::check_given(name, target);
  LOCKSTEP_CHECK(target.device() == x.device(), name, ": a target on ", target.device().to_string(),
                 " for x on ", x.device().to_string());
  broadcast_shapes(name, x.shape(), target.shape());
}

Tensor reduced(const char* name, const Tensor& losses, Reduction reduction) {
  LOCKSTEP_CHECK(reduction != Reduction::batchmean, name,
                 ": the reduction is batchmean, expected mean, sum or none");
  if (reduction == Reduction::none) return losses;
  return reduction == Reduction::sum ? sum(losses) : mean(losses);
}

}  // namespace

Tensor mse_loss(const Tensor& x, const Tensor& target, Reduction reduction) {
  if (autocasts("mse_loss", {&x, &target})) {
    return mse_loss(autocast("mse_loss", x), autocast("mse_loss", target), reduction);
  }
  check_pair("mse_loss", x, target);
  return reduced("mse_loss", square(x - target), reduction);
}

Tensor l1_loss(const Tensor& x, const Tensor& target, Reduction reduction) {
  if (autocasts("l1_loss", {&x, &target})) {
    return l1_loss(autocast("l1_loss", x), autocast("l1_loss", target), reduction);
  }
  check_pair("l1_loss", x, target);
  return reduced("l1_loss", abs(x - target), reduction);
}

Tensor smooth_l1_loss(const Tensor& x, const Tensor& target, Reduction reduction, double beta) {
  if (autocasts("smooth_l1_loss", {&x, &target})) {
    return smooth_l1_loss(autocast("smooth_l1_loss", x), autocast("smooth_l1_loss", target),
                          reduction, beta);
  }
  check_pair("smooth_l1_loss", x, target);
  LOCKSTEP_CHECK(beta >= 0, "smooth_l1_loss: beta ", beta, ", expected at least 0");
  if (beta == 0) return l1_loss(x, target, reduction);
  return reduced("smooth_l1_loss", internal::unary<math::Huber>(x - target, {beta}) / beta,
                 reduction);
}

Tensor huber_loss(const Tensor& x, const Tensor& target, Reduction reduction, double delta) {
  if (autocasts("huber_loss", {&x, &target})) {
    return huber_loss(autocast("huber_loss", x), autocast("huber_loss", target), reduction, delta);
  }
  check_pair("huber_loss", x, target);
  LOCKSTEP_CHECK(delta > 0, "huber_loss: delta ", delta, ", expected more than 0");
  return reduced("huber_loss", internal::unary<math::Huber>(x - target, {delta}), reduction);
}

namespace {

void check_binary(const char* name, const Tensor& x, const Tensor& target,
                  std::initializer_list<const Tensor*> weights) {
  check_pair(name, x, target);
  LOCKSTEP_CHECK(target.shape() == x.shape(), name, ": a target of shape ", target.shape(),
                 " for x of shape ", x.shape(), ", expected one shape");
  for (const Tensor* weight : weights) {
    LOCKSTEP_CHECK(!*weight || (weight->device() == x.device() &&
                                broadcast_shapes(name, weight->shape(), x.shape()) == x.shape()),
                   name, ": a weight of shape ", weight->shape(),
                   ", expected one that broadcasts to ", x.shape());
  }
}

// Below x (1 - x) in the gradient. PyTorch's bound is the float, in double too.
constexpr double kSmallest = 1e-12f;

// An op of its own for the gradient's sake: where a logarithm is held, x is still told to move.
Tensor binary_losses(const Tensor& x, const Tensor& target) {
  Array losses;
  {
    const Unrecorded one_op;
    const Tensor one = clamp(log(x.detach()), -100.0, {});
    const Tensor zero = clamp(log1p(neg(x.detach())), -100.0, {});
    losses = neg(target.detach() * one + (1.0 - target.detach()) * zero).value();
  }
  return record(
      {"binary_cross_entropy"}, losses, {&x, &target},
      [x = Saved(x), target = Saved(target)](const Tensor& dy, Gradients& out) {
        out.add(0, [&] { return dy * (*x - *target) / clamp(*x * (1.0 - *x), kSmallest, {}); });
        out.add(1, [&] { return dy * (log1p(neg(*x)) - log(*x)); });
      });
}

}  // namespace

Tensor binary_cross_entropy(const Tensor& x, const Tensor& target,
                            BinaryCrossEntropyOptions options) {
  constexpr const char* kName = "binary_cross_entropy";
  if (autocasts(kName, {&x, &target})) {
    return binary_cross_entropy(autocast(kName, x), autocast(kName, target), options);
  }
  check_binary(kName, x, target, {&options.weight});
  LOCKSTEP_CHECK(!options.pos_weight, kName, ": a pos_weight, expected one with logits only");
  Tensor losses = binary_losses(x, to(target, x.dtype()));
  if (options.weight) losses = losses * options.weight;
  return reduced(kName, losses, options.reduction);
}

Tensor binary_cross_entropy_with_logits(const Tensor& x, const Tensor& target,
                                        BinaryCrossEntropyOptions options) {
  constexpr const char* kName = "binary_cross_entropy_with_logits";
  if (autocasts(kName, {&x, &target})) {
    return binary_cross_entropy_with_logits(autocast(kName, x), autocast(kName, target), options);
  }
  check_binary(kName, x, target, {&options.weight, &options.pos_weight});
  // log sigmoid(-x) = log sigmoid(x) - x
  Tensor positive = logsigmoid(x);
  if (options.pos_weight) positive = positive * ((options.pos_weight - 1.0) * target + 1.0);
  Tensor losses = (1.0 - target) * x - positive;
  if (options.weight) losses = losses * options.weight;
  return reduced(kName, losses, options.reduction);
}

Tensor kl_div(const Tensor& x, const Tensor& target, Reduction reduction, bool log_target) {
  if (autocasts("kl_div", {&x, &target})) {
    return kl_div(autocast("kl_div", x), autocast("kl_div", target), reduction, log_target);
  }
  check_pair("kl_div", x, target);
  Tensor losses;
  if (log_target) {
    losses = exp(target) * (target - x);
  } else {
    const Tensor nothing = target == Tensor(Scalar(0.0));
    const Tensor some = masked_fill(target, nothing, 1.0);
    losses = masked_fill(some * (log(some) - masked_fill(x, nothing, 0.0)), nothing, 0.0);
  }
  if (reduction != Reduction::batchmean) return reduced("kl_div", losses, reduction);
  return sum(losses) / static_cast<double>(x.rank() == 0 ? 1 : x.dim(0));
}

}  // namespace lockstep
