#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lockstep/autograd/autocast.h"
#include "lockstep/nn/parameter.h"
#include "lockstep/runtime/array.h"
#include "lockstep/runtime/kernels.h"
#include "lockstep/runtime/math/update.h"

namespace lockstep::optim {

// Parameters, and what they override of the options that every optimizer has.
struct ParameterGroup {
  std::vector<nn::Parameter> parameters;
  std::optional<double> weight_decay;
  std::optional<double> learning_rate;
};

// Parameters with options of their own.
template <class Options>
struct Group {
  std::vector<nn::Parameter> parameters;
  Options options;
};

// The usual rule for transformers: tensors of two or more dimensions decay, the others do not.
std::vector<ParameterGroup> decay_matrices_only(const std::vector<nn::Parameter>& parameters,
                                                double weight_decay);

// Updates parameters in place, through fused kernels over runs of parameters that lie side by side
// in one storage, with nothing or the padding to a 64-byte boundary between them. A parameter that
// is frozen or has no gradient is left alone, and so are its state and its count of steps. State
// lies in the order of the parameters' memory and is made at the first step; after it, a step
// allocates nothing on the device, unless a gradient is not contiguous. Values have to be. Of
// sharded parameters each rank updates its slice, and step() is a collective call.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  // One update with the gradients times `gradient_scale` (clipping, loss scale). Throws Error while
  // a gradient is not reduced.
  void step(double gradient_scale = 1);
  // The next backward overwrites the gradients.
  void zero_grad();

  // A step also writes the parameters' 16-bit copies, where they exist and are up to date: then the
  // next forward converts nothing. (Not where more than the kernel changes a parameter: Lamb, Muon,
  // L-BFGS. Their copies are converted at the next use.) Must outlive the optimizer; null: none.
  void set_copies(LowPrecisionCopies* copies) { copies_ = copies; }

  int groups() const { return groups_; }
  virtual double learning_rate(int group = 0) const = 0;
  virtual void set_learning_rate(int group, double rate) = 0;
  void set_learning_rate(double rate);  // of all groups
  // Momentum, or beta1 where there is none. Throws Error where there is neither.
  virtual void set_momentum(int group, double momentum) = 0;

  // Calls of step(). (Each parameter's own count is in its state.)
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

  // The arrays that a run needs to go on, under PyTorch's names: "exp_avg" of parameter i of
  // parameters(), in its shape and dtype, or "step", rank 0 and f64; parameter -1 where it belongs
  // to all together. Of a sharded parameter this rank has a slice: rank 1, of the elements that
  // begin at `begin`. Made now if the first step has not been. They share the optimizer's memory.
  struct State {
    std::string name;
    int parameter;
    Array values;
    int64_t begin = 0;
    bool is_slice = false;
  };
  virtual std::vector<State> state();
  // Copies what state() gave. Throws Error where the entries are not those of this optimizer.
  virtual void load_state(std::span<const State> state);

  const std::vector<nn::Parameter>& parameters() const { return parameters_; }

 protected:
  explicit Optimizer(const std::vector<std::vector<nn::Parameter>>& groups);

  // The update of one parameter.
  struct Item {
    int parameter;
    int group;
    double step;  // the parameter's own, from 1
    double gradient_scale;
    int op = -1;
    UpdateRun run;

    double signed_scale(bool maximize) const { return maximize ? -gradient_scale : gradient_scale; }
    // Chooses the kernel and its constants.
    template <class F>
    void use(const F& functor) {
      static_assert(sizeof functor <= sizeof run.constants);
      op = math::index_of<math::UpdateOps, F>;
      std::memcpy(run.constants, &functor, sizeof functor);
      check_state(F::kStates);
    }
    void check_state(int states) const;
  };

  // An array of state, in the order of the functor's. `saved` is off for scratch memory.
  struct StateKind {
    const char* name;
    double initial = 0;
    bool saved = true;
  };
  // A number of each parameter, beside "step".
  struct ScalarKind {
    const char* name;
    double initial = 0;
  };

  // Called once, when state is made.
  virtual std::vector<StateKind> state_kinds(int group) const = 0;
  virtual std::vector<ScalarKind> scalar_kinds() const { return {}; }
  // Fills the item, with use().
  virtual void prepare(Item& item) = 0;
  // After the kernel has run.
  virtual void finish(std::span<const Item>) {}

  // Whether a slice of a parameter can be updated without the rest.
  virtual bool works_on_slices() const { return true; }

  // This rank's part of it.
  const Array& value_of(const Item& item) const { return parameter_of(item).own_value(); }
  const nn::Parameter& parameter_of(const Item& item) const {
    return parameters_[static_cast<size_t>(item.parameter)];
  }
  const Array& state_of(const Item& item, int kind) const {
    return arrays_[static_cast<size_t>(item.parameter)].of[kind];
  }
  double& scalar_of(const Item& item, int kind);
  void check_reduced() const;

 private:
  struct Arrays {
    Array of[UpdateRun::kStates];
    int64_t begin = 0;  // of the parameter's slice then
  };
  // A storage that a step's kernels write.
  struct Written {
    Storage* storage;
    uint64_t version;   // before
    bool copy_written;  // the kernels write the copies of all parameters that they update there
  };
  void make_state();
  void make_arrays(int kind);
  void collect_items(double gradient_scale);
  void run_kernels();
  void end_update(const std::vector<Written>& written);
  std::vector<Written> written_storages() const;

  std::vector<nn::Parameter> parameters_;
  std::vector<int> group_of_;  // of each
  int groups_;
  int64_t steps_ = 0;
  std::vector<std::vector<StateKind>> kinds_;  // of each group, once made
  std::vector<Arrays> arrays_;                 // of each parameter, once made
  std::vector<ScalarKind> scalar_kinds_;       // "step" is the first
  std::vector<Array> scalars_;                 // of each kind, on the host: one of each parameter
  std::vector<Item> items_;                    // of this step
  std::vector<Array> gradients_;               // of this step, contiguous
  LowPrecisionCopies* copies_ = nullptr;       // not owned
};

// What optimizers share that keep their options by group. `Options` is an aggregate with a
// `learning_rate`, a `weight_decay` and check(), which throws Error for what makes no sense.
template <class O>
class GroupedOptimizer : public Optimizer {
 public:
  using Options = O;
  using Group = optim::Group<O>;

  explicit GroupedOptimizer(std::vector<nn::Parameter> parameters, O options = {})
      : GroupedOptimizer(std::vector<Group>{{std::move(parameters), options}}) {}
  // Groups take from `options` what they do not override.
  explicit GroupedOptimizer(const std::vector<ParameterGroup>& groups, O options = {})
      : GroupedOptimizer(merged(groups, options)) {}
  explicit GroupedOptimizer(const std::vector<Group>& groups) : Optimizer(parameters_of(groups)) {
    for (const Group& group : groups) {
      group.options.check(group.parameters);
      options_.push_back(group.options);
    }
  }

  // May be changed between steps.
  O& options(int group = 0) { return options_.at(static_cast<size_t>(group)); }
  const O& options(int group = 0) const { return options_.at(static_cast<size_t>(group)); }

  using Optimizer::set_learning_rate;
  double learning_rate(int group = 0) const override { return options(group).learning_rate; }
  void set_learning_rate(int group, double rate) override { options(group).learning_rate = rate; }
  void set_momentum(int group, double momentum) override {
    if constexpr (requires(O o) { o.momentum; }) {
      options(group).momentum = momentum;
    } else if constexpr (requires(O o) { o.beta1; }) {
      options(group).beta1 = momentum;
    } else {
      fail({"set_momentum: this optimizer has neither momentum nor beta1"});
    }
  }

 private:
  static std::vector<Group> merged(const std::vector<ParameterGroup>& groups, const O& options) {
    std::vector<Group> result;
    for (const ParameterGroup& group : groups) {
      result.push_back({group.parameters, options});
      O& own = result.back().options;
      own.learning_rate = group.learning_rate.value_or(own.learning_rate);
      if constexpr (requires { own.weight_decay; }) {
        own.weight_decay = group.weight_decay.value_or(own.weight_decay);
      } else {
        LOCKSTEP_CHECK(!group.weight_decay, "this optimizer has no weight decay");
      }
    }
    return result;
  }
  static std::vector<std::vector<nn::Parameter>> parameters_of(const std::vector<Group>& groups) {
    std::vector<std::vector<nn::Parameter>> result;
    for (const Group& group : groups) result.push_back(group.parameters);
    return result;
  }

  std::vector<O> options_;  // of each group
};

}  // namespace lockstep::optim
