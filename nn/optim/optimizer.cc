#include "lockstep/nn/optim/optimizer.h"

#include <algorithm>
#include <map>
#include <unordered_set>
#include <utility>

#include "lockstep/nn/optim/runs.h"
#include "lockstep/runtime/error.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::optim {

std::vector<ParameterGroup> decay_matrices_only(const std::vector<nn::Parameter>& parameters,
                                                double weight_decay) {
  std::vector<ParameterGroup> groups{{.parameters = {}, .weight_decay = weight_decay},
                                     {.parameters = {}, .weight_decay = 0}};
  for (const nn::Parameter& parameter : parameters) {
    groups[parameter.shape().rank() >= 2 ? 0 : 1].parameters.push_back(parameter);
  }
  return groups;
}

Optimizer::Optimizer(const std::vector<std::vector<nn::Parameter>>& groups)
    : groups_(static_cast<int>(groups.size())) {
  std::unordered_set<const void*> seen;
  for (int group = 0; group < groups_; ++group) {
    for (const nn::Parameter& parameter : groups[static_cast<size_t>(group)]) {
      LOCKSTEP_CHECK(parameter, "an optimizer is given an empty parameter");
      LOCKSTEP_CHECK(seen.insert(parameter.identity()).second, "a parameter of shape ",
                     parameter.shape(), " is given to the optimizer twice");
      parameters_.push_back(parameter);
      group_of_.push_back(group);
    }
  }
}

void Optimizer::zero_grad() {
  for (const nn::Parameter& parameter : parameters_) {
    if (parameter.placed()) parameter.leaf().zero_grad();
  }
}

void Optimizer::set_learning_rate(double rate) {
  for (int group = 0; group < groups_; ++group) set_learning_rate(group, rate);
}

// They lie on the host.
double& Optimizer::scalar_of(const Item& item, int kind) {
  return scalars_[static_cast<size_t>(kind)].data<double>()[item.parameter];
}

void Optimizer::Item::check_state(int states) const {
  for (int i = 0; i < states; ++i) {
    LOCKSTEP_CHECK(run.elements == 0 || run.state[i] != nullptr,
                   "an option that needs more state (momentum, amsgrad, centered) was turned on "
                   "after the first step");
  }
}

void Optimizer::make_state() {
  if (!scalars_.empty()) return;
  for (const nn::Parameter& parameter : parameters_) {
    LOCKSTEP_CHECK(!parameter.shard() || works_on_slices(),
                   "this optimizer needs whole parameters; they are sharded over the ranks");
  }
  for (int group = 0; group < groups_; ++group) kinds_.push_back(state_kinds(group));
  arrays_.resize(parameters_.size());
  for (int kind = 0; kind < UpdateRun::kStates; ++kind) make_arrays(kind);
  scalar_kinds_ = scalar_kinds();
  scalar_kinds_.insert(scalar_kinds_.begin(), ScalarKind{"step"});
  for (const ScalarKind& kind : scalar_kinds_) {
    scalars_.push_back(Array::full({static_cast<int64_t>(parameters_.size())}, kind.initial,
                                   DType::f64, Device()));
  }
}

// What is one run in the memory of the values is one here: neighbours stay neighbours, and only
// what lies between them (others' slices, other optimizers' parameters) is left out.
void Optimizer::make_arrays(int kind) {
  struct Place {
    size_t parameter;
    Array value;
    int64_t at;  // elements from the start of the state's memory
  };
  std::map<const Storage*, std::vector<Place>> places;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const std::vector<StateKind>& kinds = kinds_[static_cast<size_t>(group_of_[i])];
    if (kind >= static_cast<int>(kinds.size())) continue;
    const Array& value = parameters_[i].own_value();
    places[value.storage().get()].push_back({i, value, 0});
  }
  for (auto& [storage, list] : places) {
    std::stable_sort(list.begin(), list.end(), [](const Place& a, const Place& b) {
      return a.value.offset() < b.value.offset();
    });
    const int64_t item = static_cast<int64_t>(size_of(list.front().value.dtype()));
    const int64_t boundary = 64 / item;
    const auto rounded = [&](int64_t x) { return (x + boundary - 1) / boundary * boundary; };
    int64_t end = 0, end_there = 0;  // of the part before, here and among the values
    for (Place& place : list) {
      const int64_t gap = place.value.offset() - end_there;
      place.at = gap >= 0 && gap < boundary ? end + gap : rounded(end);
      end = place.at + place.value.elements();
      end_there = place.value.offset() + place.value.elements();
    }
    const Array& first = list.front().value;
    const Purpose purpose("optimizer state");
    const Array memory = Array::zeros({end}, first.dtype(), first.device());
    for (const Place& place : list) {
      const Array& value = place.value;
      arrays_[place.parameter].begin = parameters_[place.parameter].own_begin();
      Array& array = arrays_[place.parameter].of[kind];
      array = Array(memory.storage(), value.dtype(), value.shape(), value.strides(), place.at);
      const size_t group = static_cast<size_t>(group_of_[place.parameter]);
      const double initial = kinds_[group][static_cast<size_t>(kind)].initial;
      if (initial != 0) kernels::fill(array, initial);
    }
  }
}

void Optimizer::check_reduced() const {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    LOCKSTEP_CHECK(!parameters_[i].reduction_pending(),
                   "optimizer step: the gradient of parameter ", i, " of shape ",
                   parameters_[i].shape(),
                   " is not reduced over the ranks; call finish() of the data parallelism first");
  }
}

void Optimizer::collect_items(double gradient_scale) {
  items_.clear();
  gradients_.clear();
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const nn::Parameter& parameter = parameters_[i];
    if (parameter.frozen() || !parameter.leaf().has_gradient()) continue;
    const Array& value = parameter.own_value();
    const Array& gradient = parameter.own_gradient();
    LOCKSTEP_CHECK(value.contiguous() && gradient.dtype() == value.dtype(),
                   "optimizer step: parameter ", i, " is ", value.dtype(), " ", value.shape(),
                   ", its gradient ", gradient.dtype(),
                   "; expected one dtype, and the parameter contiguous");
    gradients_.push_back(kernels::contiguous(gradient));
    Item item{.parameter = static_cast<int>(i),
              .group = group_of_[i],
              .step = 0,
              .gradient_scale = gradient_scale,
              .run = {.parameter = value.data(),
                      .gradient = gradients_.back().data(),
                      .elements = value.elements(),
                      .dtype = value.dtype()}};
    for (int kind = 0; kind < UpdateRun::kStates; ++kind) {
      const Array& array = arrays_[i].of[kind];
      if (!array) continue;
      LOCKSTEP_CHECK(array.dtype() == value.dtype() && array.device() == value.device(),
                     "optimizer step: parameter ", i, " of shape ", parameter.shape(), " is ",
                     value.dtype(), " on ", value.device().to_string(), ", the optimizer's state ",
                     array.dtype(), " on ", array.device().to_string(),
                     ": convert a module before its optimizer's first step");
      LOCKSTEP_CHECK(
          array.elements() == value.elements() && arrays_[i].begin == parameter.own_begin(),
          "optimizer step: parameter ", i, " of shape ", parameter.shape(),
          " is sharded otherwise than when the optimizer's state was made");
      item.run.state[kind] = array.data();
    }
    // The copy of a shared-out storage is not this rank's alone to write.
    if (copies_ != nullptr && value.dtype() == DType::f32 && parameter.shard() == nullptr) {
      const Array copy = copies_->current(value);
      if (copy) item.run.copy = copy.data();
      item.run.copy_dtype = copies_->dtype();
    }
    items_.push_back(item);
  }
}

void Optimizer::run_kernels() {
  std::vector<RunCandidate> candidates;
  size_t next = 0;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Array& value = parameters_[i].own_value();
    RunCandidate candidate{.run = {.parameter = value.data()}, .storage = value.storage().get()};
    if (next < items_.size() && items_[next].parameter == static_cast<int>(i)) {
      candidate.run = items_[next].run;
      candidate.op = items_[next++].op;
    }
    candidates.push_back(candidate);
  }
  std::map<int, std::vector<UpdateRun>> by_op;
  for (const RunCandidate& joined : joined_runs(std::move(candidates))) {
    by_op[joined.op].push_back(joined.run);
  }
  Kernels& device = kernels::of(parameters_.front().own_value());
  for (const auto& [op, runs] : by_op) {
    device.update(op, runs.data(), static_cast<int>(runs.size()));
  }
}

std::vector<Optimizer::Written> Optimizer::written_storages() const {
  std::vector<Written> result;
  for (const Item& item : items_) {
    Storage* storage = value_of(item).storage().get();
    const bool copied = item.run.copy != nullptr;
    const auto known = std::find_if(result.begin(), result.end(), [&](const Written& written) {
      return written.storage == storage;
    });
    if (known == result.end()) {
      result.push_back({storage, storage->version(), copied});
    } else {
      known->copy_written &= copied;
    }
  }
  return result;
}

void Optimizer::end_update(const std::vector<Written>& written) {
  for (const auto& [storage, before, copy_written] : written) {
    // finish() may have gone on where the kernels ended.
    const bool only_kernels = storage->version() == before;
    storage->bump_version();
    if (copy_written && only_kernels) copies_->mark_current(*storage);
  }
}

void Optimizer::step(double gradient_scale) {
  check_reduced();
  if (copies_ != nullptr) copies_->drop_unused();
  make_state();
  collect_items(gradient_scale);
  ++steps_;
  if (items_.empty()) return;
  for (Item& item : items_) {
    item.step = ++scalar_of(item, 0);
    prepare(item);
  }
  const std::vector<Written> written = written_storages();
  run_kernels();
  finish(items_);
  gradients_.clear();
  end_update(written);
  for (nn::ShardOwner* owner : nn::shard_owners(parameters_)) owner->values_changed();
}

std::vector<Optimizer::State> Optimizer::state() {
  make_state();
  std::vector<State> result;
  for (int kind = 0; kind < UpdateRun::kStates; ++kind) {
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const Array& array = arrays_[i].of[kind];
      if (!array) continue;
      const StateKind& own = kinds_[static_cast<size_t>(group_of_[i])][static_cast<size_t>(kind)];
      if (!own.saved) continue;
      result.push_back({.name = own.name,
                        .parameter = static_cast<int>(i),
                        .values = array,
                        .begin = parameters_[i].own_begin(),
                        .is_slice = parameters_[i].shard() != nullptr});
    }
  }
  for (size_t kind = 0; kind < scalars_.size(); ++kind) {
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const int index = static_cast<int>(i);
      result.push_back({scalar_kinds_[kind].name, index, scalars_[kind].select(0, index)});
    }
  }
  return result;
}

void Optimizer::load_state(std::span<const State> given) {
  std::map<std::pair<std::string, int>, const State*> known;
  for (const State& entry : given) known[{entry.name, entry.parameter}] = &entry;
  const std::vector<State> own = state();
  LOCKSTEP_CHECK(known.size() == own.size() && given.size() == own.size(),
                 "load_state: ", given.size(), " entries are given, this optimizer has ",
                 own.size());
  for (const State& entry : own) {
    const auto found = known.find({entry.name, entry.parameter});
    LOCKSTEP_CHECK(found != known.end(), "load_state: no ", entry.name, " of parameter ",
                   entry.parameter);
    const Array& values = found->second->values;
    LOCKSTEP_CHECK(
        values && values.shape() == entry.values.shape() && found->second->begin == entry.begin,
        "load_state: ", entry.name, " of parameter ", entry.parameter, " has another shape than ",
        entry.values.shape(), ", or is of another slice");
  }
  for (const State& entry : own) {
    const Array& values = known[{entry.name, entry.parameter}]->values;
    kernels::copy_into(values, entry.values);
  }
}

}  // namespace lockstep::optim
