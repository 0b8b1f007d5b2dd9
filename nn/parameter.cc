#include "lockstep/nn/parameter.h"

#include <algorithm>

#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::nn {

Parameter::Parameter(Shape shape, Initializer initializer)
    : state_(std::make_shared<State>(State{shape, initializer, {}, {}, false, false})) {}

const Tensor& Parameter::tensor() const {
  LOCKSTEP_CHECK(state_, "an empty parameter is used");
  LOCKSTEP_CHECK(state_->tensor, "a parameter of shape ", state_->shape,
                 " is used before its module was placed");
  return state_->tensor;
}

Leaf& Parameter::leaf() const {
  LOCKSTEP_CHECK(state_ && state_->leaf, "a parameter without memory has no gradient");
  return static_cast<Leaf&>(*state_->leaf);
}

void Parameter::make_tensor(Array value) {
  state_->tensor =
      state_->frozen ? Tensor(std::move(value)) : Tensor(std::move(value), state_->leaf, 0);
}

void Parameter::seat(Array value, bool has_values) {
  LOCKSTEP_CHECK(value.shape() == shape(), "a parameter of shape ", shape(),
                 " cannot be seated in an array of shape ", value.shape());
  if (placed() && !has_values) kernels::copy_into(tensor().value(), value);
  const bool moves = placed() && (value.dtype() != dtype() || value.device() != tensor().device());
  if (!state_->leaf || moves) state_->leaf = Ref<Node>(new Leaf(value));
  make_tensor(std::move(value));
}

void Parameter::assign(const Array& values) const {
  LOCKSTEP_CHECK(values.shape() == shape(), "a parameter of shape ", shape(),
                 " is given values of shape ", values.shape());
  const Array& own = own_value();
  if (const Shard* shard = this->shard()) {
    const Array flat = kernels::contiguous(values).reshape({elements()});
    kernels::copy_into(flat.narrow(0, shard->begin, own.elements()), own);
  } else {
    kernels::copy_into(values, own);
  }
}

std::vector<ShardOwner*> shard_owners(std::span<const Parameter> parameters) {
  std::vector<ShardOwner*> owners;
  for (const Parameter& parameter : parameters) {
    if (!parameter || !parameter.shard()) continue;
    ShardOwner* owner = parameter.shard()->owner;
    if (std::find(owners.begin(), owners.end(), owner) == owners.end()) owners.push_back(owner);
  }
  return owners;
}

void Parameter::convert(DType dtype) {
  if (this->dtype() == dtype) return;
  LOCKSTEP_CHECK(!leaf().seated() && !shard(), "a parameter of shape ", shape(),
                 " cannot be converted: its gradient has a place elsewhere "
                 "(data parallelism)");
  Array value = kernels::cast(tensor().value(), dtype);
  state_->leaf = Ref<Node>(new Leaf(value));
  make_tensor(std::move(value));
}

void Parameter::set_initializer(Initializer initializer) {
  LOCKSTEP_CHECK(!placed(), "a parameter of shape ", shape(),
                 " has its values already: use init::apply");
  state_->initializer = initializer;
}

void Parameter::initialize(const Array& values, int64_t first, std::string_view name,
                           uint64_t seed) const {
  state_->initializer.fill(values, shape(), first, name, seed);
}

void Parameter::set_frozen(bool frozen) {
  state_->frozen = frozen;
  if (placed()) make_tensor(state_->tensor.value());
}

const Array& Buffer::array() const {
  LOCKSTEP_CHECK(state_ && state_->array, "a buffer is used before its module was placed");
  return state_->array;
}

void Buffer::place(DType dtype, Device device) {
  dtype = state_->dtype.value_or(dtype);
  if (state_->on_host) device = {};
  const Array before = state_->array;
  if (before && before.dtype() == dtype && before.device() == device) return;
  state_->array = Array::full(state_->shape, state_->value, dtype, device);
  if (before) kernels::copy_into(before, state_->array);
}

void Buffer::seat(Array memory) {
  kernels::copy_into(array(), memory);
  state_->array = std::move(memory);
}

}  // namespace lockstep::nn
