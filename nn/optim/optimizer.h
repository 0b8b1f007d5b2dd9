#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/nn/parameter.h"
#include "lockstep/runtime/array.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::optim {

// Parameters that share a weight decay.
struct ParameterGroup {
  std::vector<nn::Parameter> parameters;
  double weight_decay = 0;
};

// The usual rule for transformers: tensors of two or more dimensions decay, the others do not.
std::vector<ParameterGroup> decay_matrices_only(const std::vector<nn::Parameter>& parameters,
                                                double weight_decay);

// Updates parameters in place, through fused kernels over runs of parameters that lie side by side
// in one storage, with nothing or the padding to a 64-byte boundary between them. A parameter
// without a gradient is left alone, and so is its state. State has the layout of the parameters'
// memory and is made at the first step; after it, a step allocates nothing on the device.
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

  double learning_rate() const { return learning_rate_; }
  void set_learning_rate(double rate) { learning_rate_ = rate; }
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

  // One array for each state and parameter, in the shape of the parameter: "exp_avg" of parameter i
  // of parameters(). Made now if the first step has not been.
  struct State {
    const char* name;
    int parameter;
    Array values;
  };
  std::vector<State> state();
  const std::vector<nn::Parameter>& parameters() const { return parameters_; }

 protected:
  // `state_names`: at most two, in the order of UpdateRun's moments.
  Optimizer(std::vector<ParameterGroup> groups, double learning_rate,
            std::vector<const char*> state_names);

  virtual void update(Kernels& kernels, std::span<const UpdateRun> runs, int64_t step,
                      double gradient_scale) = 0;

 private:
  struct Moments {
    Array arrays[2];
  };
  void make_state();
  void collect_runs();

  std::vector<nn::Parameter> parameters_;
  std::vector<double> weight_decay_;  // of each
  double learning_rate_;
  int64_t steps_ = 0;
  std::vector<const char*> state_names_;
  std::vector<Moments> moments_;  // of each parameter, once made
  std::vector<UpdateRun> runs_;
};

// Stochastic gradient descent with momentum, as PyTorch's SGD: v = momentum v + (1 - dampening) g
// (the first time v = g), p -= lr v; weight decay is added to g.
class SGD final : public Optimizer {
 public:
  struct Options {
    double learning_rate = 1e-3;
    double momentum = 0;
    double dampening = 0;
    double weight_decay = 0;
    bool nesterov = false;
  };
  SGD(std::vector<nn::Parameter> parameters, Options options);
  SGD(std::vector<ParameterGroup> groups, Options options);

 private:
  void update(Kernels& kernels, std::span<const UpdateRun> runs, int64_t step,
              double gradient_scale) override;
  Options options_;
};

// Adam with decoupled weight decay (Loshchilov & Hutter 2019); with `decoupled` off, Adam (Kingma &
// Ba 2015), where decay is added to the gradient.
class AdamW final : public Optimizer {
 public:
  struct Options {
    double learning_rate = 1e-3;
    double beta1 = 0.9;
    double beta2 = 0.999;
    double epsilon = 1e-8;
    double weight_decay = 0.01;
    bool decoupled = true;
  };
  AdamW(std::vector<nn::Parameter> parameters, Options options);
  AdamW(std::vector<ParameterGroup> groups, Options options);

 private:
  void update(Kernels& kernels, std::span<const UpdateRun> runs, int64_t step,
              double gradient_scale) override;
  Options options_;
};

// The 2-norm of all gradients together, in double, in an order that depends on the list alone.
// Infinite or NaN where a gradient is.
double gradient_norm(std::span<const nn::Parameter> parameters);

// What to multiply gradients by so that their norm is at most `max_norm`, as PyTorch's
// clip_grad_norm_: min(1, max_norm / (norm + 1e-6)). max_norm 0: no clipping.
double clip_factor(double norm, double max_norm);

}  // namespace lockstep::optim
