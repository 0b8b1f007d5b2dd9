#include "lockstep/nn/optim/lbfgs.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lockstep/autograd/ops.h"
#include "lockstep/runtime/error.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/ops/matmul.h"

namespace lockstep::optim {
namespace {

// Below this y . s says nothing of the curvature.
constexpr double kLeastCurvature = 1e-10;

double dot(const Array& a, const Array& b) {
  return kernels::matmul(a.unsqueeze(0), b.unsqueeze(1)).item();
}

double largest(const Array& x) {
  return norm(Tensor(x), std::numeric_limits<double>::infinity()).item();
}

// x + factor * d
Array moved(const Array& x, double factor, const Array& d) {
  const Array result = kernels::copy(x);
  kernels::scale_add(factor, d, 1, result);
  return result;
}

Array scaled(double factor, const Array& x) {
  const Array result = kernels::copy(x);
  kernels::scale_add(factor, result, 0, result);
  return result;
}

// One vector of all parameters, in f32 or wider; `part(i)` is empty where there are zeros.
template <class F>
Array flatten(const std::vector<nn::Parameter>& parameters, int64_t elements, const F& part) {
  bool wide = false;
  for (const nn::Parameter& parameter : parameters) wide |= parameter.dtype() == DType::f64;
  const Array flat = Array::zeros({elements}, wide ? DType::f64 : DType::f32,
                                  parameters.front().tensor().device());
  int64_t start = 0;
  for (const nn::Parameter& parameter : parameters) {
    const Array values = part(parameter);
    const Array slice = flat.narrow(0, start, parameter.elements());
    if (values) kernels::copy_into(values.reshape(slice.shape()), slice);
    start += parameter.elements();
  }
  return flat;
}

}  // namespace

void LBFGSOptions::check(std::span<const nn::Parameter>) const {
  LOCKSTEP_CHECK(
      learning_rate >= 0 && max_iterations >= 0 && max_evaluations >= 0 && history_size > 0,
      "LBFGS: learning rate ", learning_rate, ", ", max_iterations, " iterations, ",
      max_evaluations, " evaluations, a history of ", history_size);
}

LBFGS::LBFGS(std::vector<nn::Parameter> parameters, LBFGSOptions options)
    : GroupedOptimizer(std::move(parameters), options) {
  for (const nn::Parameter& parameter : this->parameters()) elements_ += parameter.elements();
}

void LBFGS::prepare(Item&) { fail({"LBFGS: step() needs a closure that computes the loss"}); }

Array LBFGS::flat_gradient() const {
  LOCKSTEP_CHECK(nn::shard_owners(parameters()).empty(),
                 "LBFGS needs whole parameters; they are sharded over the ranks");
  return flatten(parameters(), elements_, [](const nn::Parameter& parameter) {
    return parameter.frozen() ? Array() : parameter.grad().value();
  });
}

Array LBFGS::flat_values() const {
  return flatten(parameters(), elements_,
                 [](const nn::Parameter& parameter) { return parameter.tensor().value(); });
}

void LBFGS::set_values(const Array& flat) {
  int64_t start = 0;
  for (const nn::Parameter& parameter : parameters()) {
    const Array slice = flat.narrow(0, start, parameter.elements());
    if (!parameter.frozen()) {
      kernels::copy_into(slice.reshape(parameter.shape()), parameter.tensor().value());
    }
    start += parameter.elements();
  }
}

LinePoint LBFGS::evaluate(const Closure& closure, Tensor& loss) {
  loss = closure();
  LOCKSTEP_CHECK(loss && loss.elements() == 1, "LBFGS: the closure has to return the loss");
  check_reduced();
  ++evaluations_;
  if (elements_ == 0) return {};
  LinePoint point{.value = loss.item(), .gradient = flat_gradient()};
  if (!options().maximize) return point;
  point.value = -point.value;
  point.gradient = scaled(-1, point.gradient);
  return point;
}

// direction = - inverse Hessian @ gradient, by the two-loop recursion.
void LBFGS::find_direction(const Array& gradient) {
  if (iterations_ == 1) {
    direction_ = scaled(-1, gradient);
    return;
  }
  const Array y = moved(gradient, -1, previous_gradient_);
  const Array s = scaled(step_length_, direction_);
  const double curvature = dot(y, s);
  if (curvature > kLeastCurvature) {
    if (static_cast<int>(history_.size()) >= options().history_size) history_.pop_front();
    history_.push_back({y, s, 1 / curvature});
    hessian_diagonal_ = curvature / dot(y, y);
  }
  const Array q = scaled(-1, gradient);
  std::vector<double> alphas;
  for (auto pair = history_.rbegin(); pair != history_.rend(); ++pair) {
    alphas.push_back(dot(pair->s, q) * pair->ro);
    kernels::scale_add(-alphas.back(), pair->y, 1, q);
  }
  direction_ = scaled(hessian_diagonal_, q);
  for (const Pair& pair : history_) {
    const double beta = dot(pair.y, direction_) * pair.ro;
    kernels::scale_add(alphas.back() - beta, pair.s, 1, direction_);
    alphas.pop_back();
  }
}

// To a point of the strong Wolfe conditions. Returns how many evaluations it took.
int LBFGS::search(const Closure& closure, int evaluations_left, LinePoint& at) {
  const Array origin = flat_values();
  const auto evaluate_at = [&](double t) {
    set_values(moved(origin, t, direction_));
    Tensor loss;
    LinePoint point = evaluate(closure, loss);
    point.t = t;
    point.slope = dot(point.gradient, direction_);
    return point;
  };
  const LineSearchResult found = strong_wolfe(evaluate_at, at, step_length_,
                                              {.tolerance_change = options().tolerance_change,
                                               .max_evaluations = evaluations_left,
                                               .direction_size = largest(direction_)});
  at = found.point;
  step_length_ = at.t;
  set_values(moved(origin, step_length_, direction_));
  return found.evaluations;
}

// Moves by one step. Returns how many evaluations it took.
int LBFGS::advance(const Closure& closure, int evaluations_left, bool last, LinePoint& at) {
  if (options().line_search == LBFGSOptions::LineSearch::strong_wolfe) {
    return search(closure, evaluations_left, at);
  }
  set_values(moved(flat_values(), step_length_, direction_));
  if (last) return 0;  // where losses are noisy the next step() evaluates anew
  Tensor loss;
  at = evaluate(closure, loss);
  return 1;
}

Tensor LBFGS::step(const Closure& closure) {
  const LBFGSOptions& o = options();
  const int most = o.max_evaluations > 0 ? o.max_evaluations : o.max_iterations * 5 / 4;
  Tensor first_loss;
  LinePoint at = evaluate(closure, first_loss);
  set_steps(steps() + 1);
  if (elements_ == 0) return first_loss;
  int evaluations = 1;
  for (int iteration = 1; iteration <= o.max_iterations; ++iteration) {
    if (largest(at.gradient) <= o.tolerance_gradient) break;
    ++iterations_;
    find_direction(at.gradient);
    previous_gradient_ = at.gradient;
    previous_loss_ = at.value;
    step_length_ = o.learning_rate;
    if (iterations_ == 1) step_length_ *= std::min(1.0, 1 / norm(Tensor(at.gradient), 1).item());
    at.t = 0;
    at.slope = dot(at.gradient, direction_);
    if (at.slope > -o.tolerance_change) break;
    const bool last = iteration == o.max_iterations;
    evaluations += advance(closure, most - evaluations, last, at);
    if (last || evaluations >= most) break;
    if (largest(direction_) * std::abs(step_length_) <= o.tolerance_change) break;
    if (std::abs(at.value - previous_loss_) < o.tolerance_change) break;
  }
  return first_loss;
}

std::vector<Optimizer::State> LBFGS::state() {
  std::vector<State> result;
  const auto number = [&](std::string name, double value) {
    result.push_back({std::move(name), -1, Array::full({}, value, DType::f64)});
  };
  const auto vector = [&](std::string name, const Array& values) {
    if (values) result.push_back({std::move(name), -1, kernels::copy(values)});
  };
  number("n_iter", static_cast<double>(iterations_));
  number("func_evals", static_cast<double>(evaluations_));
  number("t", step_length_);
  number("H_diag", hessian_diagonal_);
  number("prev_loss", previous_loss_);
  vector("d", direction_);
  vector("prev_flat_grad", previous_gradient_);
  for (size_t i = 0; i < history_.size(); ++i) {
    const std::string index = std::to_string(i);
    vector("old_dirs." + index, history_[i].y);
    vector("old_stps." + index, history_[i].s);
    number("ro." + index, history_[i].ro);
  }
  return result;
}

void LBFGS::load_state(std::span<const State> given) {
  const auto find = [&](const std::string& name) {
    for (const State& entry : given) {
      if (entry.name == name) return entry.values;
    }
    return Array();
  };
  const auto number = [&](const std::string& name) {
    const Array values = find(name);
    LOCKSTEP_CHECK(values && values.elements() == 1, "LBFGS: load_state: no number ", name);
    return values.item();
  };
  const auto vector = [&](const std::string& name) {
    const Array values = find(name);
    LOCKSTEP_CHECK(!values || values.shape() == Shape{elements_}, "LBFGS: load_state: ", name,
                   " has shape ", values.shape(), ", expected ", elements_, " elements");
    return values ? kernels::copy(values) : Array();
  };
  std::deque<Pair> history;
  for (size_t i = 0;; ++i) {
    const std::string index = std::to_string(i);
    Array y = vector("old_dirs." + index), s = vector("old_stps." + index);
    if (!y || !s) break;
    history.push_back({std::move(y), std::move(s), number("ro." + index)});
  }
  const Array direction = vector("d"), gradient = vector("prev_flat_grad");
  const double iterations = number("n_iter");
  LOCKSTEP_CHECK(iterations == 0 || (direction && gradient),
                 "LBFGS: load_state: no d or no prev_flat_grad");
  evaluations_ = static_cast<int64_t>(number("func_evals"));
  step_length_ = number("t");
  hessian_diagonal_ = number("H_diag");
  previous_loss_ = number("prev_loss");
  iterations_ = static_cast<int64_t>(iterations);
  direction_ = direction;
  previous_gradient_ = gradient;
  history_ = std::move(history);
}

}  // namespace lockstep::optim
