#pragma once

#include <deque>
#include <functional>

#include "lockstep/nn/optim/line_search.h"
#include "lockstep/nn/optim/optimizer.h"

namespace lockstep::optim {

struct LBFGSOptions {
  enum class LineSearch : uint8_t { none, strong_wolfe };

  double learning_rate = 1;
  int max_iterations = 20;           // of one step()
  int max_evaluations = 0;           // of one step(); 0: max_iterations * 5 / 4
  double tolerance_gradient = 1e-7;  // of the largest element
  double tolerance_change = 1e-9;    // of the loss, and of the largest element of a step
  int history_size = 100;
  LineSearch line_search = LineSearch::none;
  bool maximize = false;

  void check(std::span<const nn::Parameter> parameters) const;
};

// L-BFGS (Liu & Nocedal 1989), with a fixed step or with a line search for the strong Wolfe
// conditions. All parameters are one vector, in one group; one without a gradient counts as having
// a gradient of 0. Keeps two vectors of history an iteration, of `history_size` at the most.
class LBFGS final : public GroupedOptimizer<LBFGSOptions> {
 public:
  explicit LBFGS(std::vector<nn::Parameter> parameters, LBFGSOptions options = {});

  // Zeroes the gradients, computes the loss, calls backward() and returns the loss.
  using Closure = std::function<Tensor()>;
  // Up to `max_iterations` iterations. Returns the loss of the first evaluation.
  Tensor step(const Closure& closure);

  int64_t evaluations() const { return evaluations_; }

  // Copies, under PyTorch's names ("old_dirs.3"): as many as there are by now.
  std::vector<State> state() override;
  void load_state(std::span<const State> state) override;

 private:
  // What is kept of an iteration: the changes of the gradient and of the position, 1 / (y . s).
  struct Pair {
    Array y, s;
    double ro = 0;
  };

  std::vector<StateKind> state_kinds(int) const override { return {}; }
  void prepare(Item& item) override;

  LinePoint evaluate(const Closure& closure, Tensor& loss);
  Array flat_gradient() const;
  Array flat_values() const;
  void set_values(const Array& flat);
  void find_direction(const Array& gradient);
  int advance(const Closure& closure, int evaluations_left, bool last, LinePoint& at);
  int search(const Closure& closure, int evaluations_left, LinePoint& at);

  int64_t elements_ = 0;
  Array direction_;
  Array previous_gradient_;
  std::deque<Pair> history_;  // the oldest first
  double step_length_ = 0;
  double hessian_diagonal_ = 1;  // of the inverse Hessian to begin with
  double previous_loss_ = 0;
  int64_t iterations_ = 0;
  int64_t evaluations_ = 0;
};

}  // namespace lockstep::optim
