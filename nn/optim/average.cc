#include "lockstep/nn/optim/average.h"

#include <exception>

#include "lockstep/runtime/error.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::optim {
namespace {

// Whatever can be averaged is, in f32 or wider.
Array average_of(const Array& value, bool averaged) {
  if (!averaged) return kernels::copy(value);
  return kernels::copy(kernels::cast(value, value.dtype() == DType::f64 ? DType::f64 : DType::f32));
}

void write(const Array& from, const Array& to) {
  kernels::copy_into(kernels::cast(from, to.dtype()), to);
}

}  // namespace

// Calls visit(entry, value) for parameters, then buffers, in the module's order: their values may
// have moved (into flat buckets) since the last time.
template <class F>
void ExponentialMovingAverage::for_each(F&& visit) {
  size_t next = 0;
  for (const nn::NamedParameter& named : module_.named_parameters()) {
    Entry& entry = entries_.at(next++);
    const Array& value = named.parameter.own_value();
    LOCKSTEP_CHECK(
        value.elements() == entry.average.elements() && entry.begin == named.parameter.own_begin(),
        "ExponentialMovingAverage: ", named.name,
        " is sharded otherwise than when the average was made: make it after the data "
        "parallelism");
    visit(entry, value);
  }
  for (const nn::NamedBuffer& named : module_.named_buffers()) {
    visit(entries_.at(next++), named.buffer.array());
  }
}

ExponentialMovingAverage::ExponentialMovingAverage(nn::Module& module, AverageOptions options)
    : module_(module), options_(options), updates_(Array::zeros({}, DType::f64)) {
  LOCKSTEP_CHECK(options.decay >= 0 && options.decay <= 1, "ExponentialMovingAverage: decay ",
                 options.decay, ", expected 0 to 1");
  for (const nn::NamedParameter& named : module.named_parameters()) {
    const nn::Parameter& parameter = named.parameter;
    entries_.push_back({.name = named.name,
                        .average = average_of(parameter.own_value(), true),
                        .averaged = true,
                        .begin = parameter.own_begin(),
                        .is_slice = parameter.shard() != nullptr});
  }
  for (const nn::NamedBuffer& named : module.named_buffers()) {
    const Array& value = named.buffer.array();
    const bool averaged = options.average_buffers && is_floating(value.dtype());
    entries_.push_back(
        {.name = named.name, .average = average_of(value, averaged), .averaged = averaged});
  }
}

void ExponentialMovingAverage::update() {
  LOCKSTEP_CHECK(!swapped_, "ExponentialMovingAverage: update while the averages are swapped in");
  const bool first = updates() == 0;
  for_each([&](Entry& entry, const Array& value) {
    if (first || !entry.averaged) {
      write(value, entry.average);
    } else {
      kernels::scale_add(1 - options_.decay, kernels::cast(value, entry.average.dtype()),
                         options_.decay, entry.average);
    }
  });
  kernels::fill(updates_, updates_.item() + 1);
}

ExponentialMovingAverage::Evaluation::~Evaluation() {
  if (std::uncaught_exceptions() == 0) {
    average_.swap_out();
    return;
  }
  try {
    average_.swap_out();
  } catch (const Error&) {  // what failed before is on its way
  }
}

void ExponentialMovingAverage::swap_in() {
  LOCKSTEP_CHECK(!swapped_, "ExponentialMovingAverage: the averages are swapped in already");
  for_each([&](Entry& entry, const Array& value) {
    entry.own = kernels::copy(value);
    write(entry.average, value);
  });
  publish();
  swapped_ = true;
}

void ExponentialMovingAverage::swap_out() {
  LOCKSTEP_CHECK(swapped_, "ExponentialMovingAverage: the averages are not swapped in");
  for_each([&](Entry& entry, const Array& value) {
    write(entry.own, value);
    entry.own = {};
  });
  publish();
  swapped_ = false;
}

void ExponentialMovingAverage::publish() {
  for (nn::ShardOwner* owner : nn::shard_owners(module_.parameters())) owner->values_changed();
}

std::vector<ExponentialMovingAverage::State> ExponentialMovingAverage::state() const {
  std::vector<State> result;
  for (const Entry& entry : entries_) {
    result.push_back({entry.name, entry.average, entry.begin, entry.is_slice});
  }
  result.push_back({"n_averaged", updates_});
  return result;
}

void ExponentialMovingAverage::load_state(const std::vector<State>& given) {
  const std::vector<State> own = state();
  LOCKSTEP_CHECK(given.size() == own.size(), "ExponentialMovingAverage: load_state: ", given.size(),
                 " entries, expected ", own.size());
  for (size_t i = 0; i < own.size(); ++i) {
    LOCKSTEP_CHECK(given[i].name == own[i].name && given[i].values &&
                       given[i].values.shape() == own[i].values.shape() &&
                       given[i].begin == own[i].begin,
                   "ExponentialMovingAverage: load_state: entry ", i, " is ", given[i].name,
                   ", expected ", own[i].name, " of shape ", own[i].values.shape());
  }
  for (size_t i = 0; i < own.size(); ++i) write(given[i].values, own[i].values);
}

}  // namespace lockstep::optim
