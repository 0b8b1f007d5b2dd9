#include "lockstep/nn/optim/optimizer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <unordered_set>

#include "lockstep/runtime/error.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::optim {
namespace {

// Flat memory has its tensors on such boundaries. What lies between them is padding, zero in every
// array and left zero by every update.
constexpr int64_t kAlignmentBytes = 64;

template <class T>
T* shifted(T* base, int64_t elements, DType dtype) {
  return base == nullptr ? nullptr
                         : reinterpret_cast<T*>(reinterpret_cast<intptr_t>(base) +
                                                elements * static_cast<int64_t>(size_of(dtype)));
}

int64_t distance(const void* from, const void* to, DType dtype) {
  const intptr_t bytes = reinterpret_cast<intptr_t>(to) - reinterpret_cast<intptr_t>(from);
  const intptr_t size = static_cast<intptr_t>(size_of(dtype));
  return bytes % size == 0 ? bytes / size : -1;
}

// A run and the memory it lies in.
struct Candidate {
  UpdateRun run;
  const Storage* storage;
};

// Whether one update may go from the end of `a` through to the end of `b`, which follows with
// nothing or padding between. (A wider gap may hold a parameter that is not to be touched.)
bool joins(const Candidate& left, const Candidate& right) {
  const UpdateRun &a = left.run, &b = right.run;
  if (a.elements == 0 || b.elements == 0 || left.storage != right.storage) return false;
  if (a.dtype != b.dtype || a.weight_decay != b.weight_decay) return false;
  const int64_t boundary = kAlignmentBytes / static_cast<int64_t>(size_of(a.dtype));
  const int64_t gap = distance(a.parameter, b.parameter, b.dtype);
  if (gap != a.elements && gap != (a.elements + boundary - 1) / boundary * boundary) return false;
  return shifted(a.gradient, gap, b.dtype) == b.gradient &&
         shifted(a.first_moment, gap, b.dtype) == b.first_moment &&
         shifted(a.second_moment, gap, b.dtype) == b.second_moment;
}

// The runs of parameters that are neighbours in memory; those without elements are left out.
std::vector<UpdateRun> joined_runs(std::vector<Candidate> candidates) {
  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    return a.run.parameter < b.run.parameter;
  });
  std::vector<Candidate> joined;
  for (const Candidate& next : candidates) {
    if (!joined.empty() && joins(joined.back(), next)) {
      UpdateRun& run = joined.back().run;
      run.elements = distance(run.parameter, next.run.parameter, run.dtype) + next.run.elements;
    } else {
      joined.push_back(next);
    }
  }
  std::vector<UpdateRun> runs;
  for (const Candidate& candidate : joined) {
    if (candidate.run.elements > 0) runs.push_back(candidate.run);
  }
  return runs;
}

}  // namespace

std::vector<ParameterGroup> decay_matrices_only(const std::vector<nn::Parameter>& parameters,
                                                double weight_decay) {
  std::vector<ParameterGroup> groups{{{}, weight_decay}, {{}, 0}};
  for (const nn::Parameter& parameter : parameters) {
    groups[parameter.shape().rank() >= 2 ? 0 : 1].parameters.push_back(parameter);
  }
  return groups;
}

Optimizer::Optimizer(std::vector<ParameterGroup> groups, double learning_rate,
                     std::vector<const char*> state_names)
    : learning_rate_(learning_rate), state_names_(std::move(state_names)) {
  std::unordered_set<const void*> seen;
  for (const ParameterGroup& group : groups) {
    for (const nn::Parameter& parameter : group.parameters) {
      LOCKSTEP_CHECK(seen.insert(parameter.identity()).second, "a parameter of shape ",
                     parameter.shape(), " is given to the optimizer twice");
      parameters_.push_back(parameter);
      weight_decay_.push_back(group.weight_decay);
    }
  }
}

void Optimizer::zero_grad() {
  for (const nn::Parameter& parameter : parameters_) {
    if (parameter.placed()) parameter.leaf().zero_grad();
  }
}

// State mirrors the memory of the values, so that what is one run there is one run here.
void Optimizer::make_state() {
  if (!moments_.empty() || state_names_.empty()) return;
  moments_.resize(parameters_.size());
  for (size_t kind = 0; kind < state_names_.size(); ++kind) {
    std::map<const Storage*, Array> mirrors;
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const Array& value = parameters_[i].tensor().value();
      Array& mirror = mirrors[value.storage().get()];
      if (!mirror) {
        const int64_t elements =
            static_cast<int64_t>(value.storage()->bytes() / size_of(value.dtype()));
        mirror = Array::zeros({elements}, value.dtype(), value.device());
      }
      moments_[i].arrays[kind] =
          Array(mirror.storage(), value.dtype(), value.shape(), value.strides(), value.offset());
    }
  }
}

// A parameter that is not to be updated has no elements: it parts the runs beside it.
void Optimizer::collect_runs() {
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const nn::Parameter& parameter = parameters_[i];
    const Array& value = parameter.tensor().value();
    UpdateRun run{
        .parameter = value.data(), .dtype = value.dtype(), .weight_decay = weight_decay_[i]};
    if (!parameter.frozen() && parameter.leaf().has_gradient()) {
      const Array& gradient = parameter.leaf().gradient();
      LOCKSTEP_CHECK(gradient.contiguous(), "a gradient of shape ", gradient.shape(),
                     " is not contiguous");
      run.gradient = gradient.data();
      run.elements = value.elements();
    }
    if (!moments_.empty()) {
      const auto& arrays = moments_[i].arrays;
      if (arrays[0]) run.first_moment = arrays[0].data();
      if (arrays[1]) run.second_moment = arrays[1].data();
    }
    candidates.push_back({run, value.storage().get()});
  }
  runs_ = joined_runs(std::move(candidates));
}

void Optimizer::step(double gradient_scale) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    LOCKSTEP_CHECK(!parameters_[i].reduction_pending(),
                   "optimizer step: the gradient of parameter ", i, " of shape ",
                   parameters_[i].shape(),
                   " is not reduced over the ranks; call finish() of the data parallelism first");
  }
  make_state();
  collect_runs();
  ++steps_;
  if (runs_.empty()) return;
  const Array& any = parameters_.front().tensor().value();
  update(kernels::of(any), runs_, steps_, gradient_scale);
  for (const nn::Parameter& parameter : parameters_) {
    if (parameter.leaf().has_gradient()) parameter.tensor().value().storage()->bump_version();
  }
}

std::vector<Optimizer::State> Optimizer::state() {
  make_state();
  std::vector<State> result;
  for (size_t kind = 0; kind < state_names_.size(); ++kind) {
    for (size_t i = 0; i < parameters_.size(); ++i) {
      result.push_back({state_names_[kind], static_cast<int>(i), moments_[i].arrays[kind]});
    }
  }
  return result;
}

SGD::SGD(std::vector<nn::Parameter> parameters, Options options)
    : SGD(std::vector<ParameterGroup>{{std::move(parameters), options.weight_decay}}, options) {}

SGD::SGD(std::vector<ParameterGroup> groups, Options options)
    : Optimizer(std::move(groups), options.learning_rate,
                options.momentum != 0 ? std::vector<const char*>{"momentum_buffer"}
                                      : std::vector<const char*>{}),
      options_(options) {
  LOCKSTEP_CHECK(!options.nesterov || (options.momentum > 0 && options.dampening == 0),
                 "SGD: Nesterov momentum needs a momentum and no dampening");
}

void SGD::update(Kernels& kernels, std::span<const UpdateRun> runs, int64_t step,
                 double gradient_scale) {
  kernels.sgd(runs.data(), static_cast<int>(runs.size()),
              {.learning_rate = learning_rate(),
               .momentum = options_.momentum,
               .dampening = options_.dampening,
               .nesterov = options_.nesterov,
               .first_step = step == 1,
               .gradient_scale = gradient_scale});
}

AdamW::AdamW(std::vector<nn::Parameter> parameters, Options options)
    : AdamW(std::vector<ParameterGroup>{{std::move(parameters), options.weight_decay}}, options) {}

AdamW::AdamW(std::vector<ParameterGroup> groups, Options options)
    : Optimizer(std::move(groups), options.learning_rate, {"exp_avg", "exp_avg_sq"}),
      options_(options) {}

void AdamW::update(Kernels& kernels, std::span<const UpdateRun> runs, int64_t step,
                   double gradient_scale) {
  kernels.adam(runs.data(), static_cast<int>(runs.size()),
               {.learning_rate = learning_rate(),
                .beta1 = options_.beta1,
                .beta2 = options_.beta2,
                .epsilon = options_.epsilon,
                .step = step,
                .gradient_scale = gradient_scale,
                .decoupled = options_.decoupled});
}

double gradient_norm(std::span<const nn::Parameter> parameters) {
  double total = 0;
  for (const nn::Parameter& parameter : parameters) {
    if (parameter.frozen() || !parameter.leaf().has_gradient()) continue;
    const Array gradient = kernels::contiguous(parameter.leaf().gradient());
    total += kernels::of(gradient).sum_of_squares(gradient.view());
  }
  return std::sqrt(total);
}

double clip_factor(double norm, double max_norm) {
  return max_norm > 0 ? std::min(1.0, max_norm / (norm + 1e-6)) : 1.0;
}

}  // namespace lockstep::optim
