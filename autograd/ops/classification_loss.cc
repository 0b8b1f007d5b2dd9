#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/ops/check.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/index.h"
#include "lockstep/autograd/ops/loss.h"
#include "lockstep/autograd/ops/normalization.h"
#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/autograd/ops/shape.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/layout.h"
#include "lockstep/runtime/ops/rows.h"

namespace lockstep {
namespace {

// What the losses of [rows, classes] keep for their gradient.
struct SavedLosses {
  Saved logits, targets;
  int64_t ignore;
  Array log_sum_exp;
  Array inverse_count;  // of the mean: 1 / the number of targets, a scalar

  // dloss: of each row's loss, or of their mean.
  void backward(const Tensor& dloss, Gradients& out) const {
    out.add(0, [&](Into into) -> Tensor {
      const Tensor each =
          expand(inverse_count ? dloss * Tensor(inverse_count) : dloss, log_sum_exp.shape());
      if (recording()) return gradient_of_ops(each);
      // Over the logits, if this was their last use: they are the largest of all.
      const bool may = !into && kernels::has_separate_rows(logits.value());
      const Array memory = may ? out.take(logits) : Array();
      return kernels::cross_entropy_backward(memory ? memory : logits.value(), targets.value(),
                                             ignore, log_sum_exp, each.value(),
                                             memory ? Into{memory, 0} : into);
    });
  }

 private:
  Tensor gradient_of_ops(const Tensor& each) const {
    const DType dtype = log_sum_exp.dtype();
    const Tensor ignored = *targets == Tensor(Scalar(ignore));
    const Tensor hot = one_hot(masked_fill(*targets, ignored, int64_t{0}), logits->dim(-1), dtype);
    const Tensor error = softmax(to(*logits, dtype)) - hot;
    const Tensor scale = masked_fill(to(each, dtype), ignored, 0.0);
    return to(error * unsqueeze(scale, -1), logits->dtype());
  }
};

// The loss of each row of [rows, classes], or their mean.
Tensor fused_losses(const Tensor& logits, const Tensor& targets, int64_t ignore, bool mean) {
  const kernels::CrossEntropy result =
      kernels::cross_entropy(logits.value(), targets.value(), ignore);
  SavedLosses saved{Saved(logits), Saved(targets), ignore, result.log_sum_exp, {}};
  Array losses = result.loss;
  if (mean) {
    const Array both = kernels::mean_loss(result.loss, targets.value(), ignore);
    losses = both.select(0, 0);
    saved.inverse_count = both.select(0, 1);
  }
  return record({"cross_entropy"}, losses, {&logits},
                [saved = std::move(saved)](const Tensor& dloss, Gradients& out) {
                  saved.backward(dloss, out);
                });
}

// What both losses see: one row a target.
struct Problem {
  const char* name;
  Tensor x;        // [rows, classes]
  Tensor targets;  // [rows] in i64, or [rows, classes]
  Tensor weight;   // [classes] or empty
  int64_t ignore;
  Reduction reduction;
  Shape shape;  // of the losses
  DType dtype;  // of the result

  double classes() const { return static_cast<double>(x.dim(1)); }
};

// Classes from dimension 1 to the last one, then as rows.
Tensor class_rows(const Tensor& x) {
  if (x.rank() == 1) return reshape(x, {1, x.dim(0)});
  if (x.rank() == 2) return x;
  std::vector<int> order{0};
  for (int i = 2; i < x.rank(); ++i) order.push_back(i);
  order.push_back(1);
  int64_t rows = x.dim(0);
  for (int i = 2; i < x.rank(); ++i) rows *= x.dim(i);
  return reshape(permute(x, order), {rows, x.dim(1)});
}

Problem make_problem(const char* name, const Tensor& x, const Tensor& targets,
                     const CrossEntropyOptions& options) {
  internal::check_floating(name, x);
  internal::check_given(name, targets);
  LOCKSTEP_CHECK(targets.device() == x.device(), name, ": targets on ",
                 targets.device().to_string(), " for logits on ", x.device().to_string());
  LOCKSTEP_CHECK(x.rank() >= 1, name, ": logits of shape ", x.shape(),
                 ", expected [classes] or [batch, classes, …]");
  Shape shape = x.shape();
  const int dim = x.rank() == 1 ? 0 : 1;
  shape.erase(dim);
  const bool indices = !is_floating(targets.dtype());
  LOCKSTEP_CHECK(
      targets.dtype() != DType::boolean && targets.shape() == (indices ? shape : x.shape()), name,
      ": targets of shape ", targets.shape(), " ", targets.dtype(), " for logits of shape ",
      x.shape(), ", expected class indices of shape ", shape,
      " or probabilities of the logits' shape");
  LOCKSTEP_CHECK(!options.weight ||
                     (options.weight.shape() == Shape{x.dim(dim)} &&
                      is_floating(options.weight.dtype()) && options.weight.device() == x.device()),
                 name, ": a weight of shape ", options.weight.shape(),
                 ", expected a floating one of [", x.dim(dim), "] on the logits' device");
  LOCKSTEP_CHECK(options.reduction != Reduction::batchmean, name,
                 ": the reduction is batchmean, expected mean, sum or none");
  const Tensor rows = class_rows(x);
  return {name,
          rows,
          indices ? reshape(to(targets, DType::i64), {rows.dim(0)}) : class_rows(targets),
          options.weight,
          options.ignore_index,
          options.reduction,
          shape,
          x.dtype()};
}

Tensor losses_or_sum(const Problem& problem, const Tensor& losses) {
  const bool each = problem.reduction == Reduction::none;
  return to(each ? reshape(losses, problem.shape) : sum(losses), problem.dtype);
}

// `total` is what the mean divides by.
template <class F>
Tensor reduced(const Problem& problem, const Tensor& losses, const F& total) {
  if (problem.reduction != Reduction::mean) return losses_or_sum(problem, losses);
  return to(sum(losses) / total(), problem.dtype);
}

// From log-probabilities [rows, classes]; `smoothing` as in cross_entropy.
Tensor index_losses(const Problem& problem, const Tensor& log_p, double smoothing) {
  const Tensor ignored = problem.targets == Tensor(Scalar(problem.ignore));
  const Tensor targets = masked_fill(problem.targets, ignored, int64_t{0});
  const Tensor& weight = problem.weight;
  Tensor losses = neg(squeeze(gather(log_p, 1, unsqueeze(targets, 1)), 1));
  Tensor weights;
  if (weight) {
    weights = masked_fill(index_select(weight, 0, targets), ignored, 0.0);
    losses = losses * weights;
  }
  if (smoothing > 0) {
    const Tensor everywhere = sum(weight ? log_p * weight : log_p, {1});
    losses = losses * (1 - smoothing) - everywhere * (smoothing / problem.classes());
  }
  return reduced(problem, masked_fill(losses, ignored, 0.0), [&] {
    return weight ? sum(weights) : to(sum(logical_not(ignored)), losses.dtype());
  });
}

Tensor probability_losses(const Problem& problem, double smoothing) {
  Tensor targets = problem.targets;
  if (smoothing > 0) targets = targets * (1 - smoothing) + smoothing / problem.classes();
  if (problem.weight) targets = targets * problem.weight;
  const Tensor losses = neg(sum(log_softmax(problem.x) * targets, {1}));
  return reduced(problem, losses, [&] { return static_cast<double>(problem.x.dim(0)); });
}

}  // namespace

Tensor cross_entropy(const Tensor& logits, const Tensor& targets, CrossEntropyOptions options) {
  const double smoothing = options.label_smoothing;
  const bool fused = targets && !is_floating(targets.dtype()) && !options.weight && smoothing == 0;
  const bool low_precision = autocasts("cross_entropy", {&logits, &targets});
  if (low_precision && !fused) {
    return cross_entropy(autocast("cross_entropy", logits), autocast("cross_entropy", targets),
                         options);
  }
  LOCKSTEP_CHECK(smoothing >= 0 && smoothing <= 1, "cross_entropy: label smoothing ", smoothing,
                 ", expected one in [0, 1]");
  Problem problem = make_problem("cross_entropy", logits, targets, options);
  if (is_floating(targets.dtype())) return probability_losses(problem, smoothing);
  if (problem.weight || smoothing > 0) {
    return index_losses(problem, log_softmax(problem.x), smoothing);
  }
  // The kernel reads logits of 16 bits as they are and computes in f32: nothing is converted.
  if (low_precision) problem.dtype = DType::f32;
  const bool mean = problem.reduction == Reduction::mean;
  const Tensor losses = fused_losses(problem.x, problem.targets, problem.ignore, mean);
  return mean ? to(losses, problem.dtype) : losses_or_sum(problem, losses);
}

Tensor nll_loss(const Tensor& log_probabilities, const Tensor& targets, NllLossOptions options) {
  if (autocasts("nll_loss", {&log_probabilities})) {
    return nll_loss(autocast("nll_loss", log_probabilities), targets, options);
  }
  internal::check_given("nll_loss", targets);
  LOCKSTEP_CHECK(!is_floating(targets.dtype()), "nll_loss: targets of ", targets.dtype(),
                 ", expected class indices in i64");
  const Problem problem = make_problem("nll_loss", log_probabilities, targets,
                                       {.weight = options.weight,
                                        .ignore_index = options.ignore_index,
                                        .reduction = options.reduction});
  return index_losses(problem, problem.x, 0);
}

}  // namespace lockstep
