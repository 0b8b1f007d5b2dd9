#include "lockstep/nn/parallel/data_parallel.h"

#include <algorithm>
#include <numeric>

#include "lockstep/collectives/activity.h"
#include "lockstep/nn/parallel/same_model.h"
#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/capture.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::nn {
namespace {

// What all ranks must have alike.
std::string describe(const DataParallelOptions& options) {
  const BucketSizes& sizes = options.bucket_sizes;
  const std::string other = sizes.other_mb > 0 ? concat({sizes.other_mb}) : "a 64th";
  return concat({"options: buckets of ", sizes.first_mb, ", ", other, ", ", sizes.last_mb, " MB",
                 options.tune_bucket_sizes ? ", tried out" : "", ", sharding ",
                 static_cast<int>(options.shard), options.prefetch ? "" : ", not prefetched",
                 options.hook ? ", with a hook" : "", options.copies ? ", read in 16 bits" : "",
                 options.reduce_dtype ? ", reduced in 16 bits" : "",
                 options.broadcast_buffers ? "" : ", buffers apart"});
}

// Throws Error at a parameter that data parallelism does not know.
class OnlyKnown final : public Visitor {
 public:
  explicit OnlyKnown(const std::vector<NamedParameter>& known)
      : known_(known), next_(known.begin()) {}

 private:
  void parameter(const std::string& path, Parameter& parameter) override {
    const auto same = [&](const NamedParameter& known) {
      return known.parameter.identity() == parameter.identity();
    };
    // In the order of before, but for tied ones.
    if (next_ == known_.end() || !same(*next_)) {
      next_ = std::find_if(known_.begin(), known_.end(), same);
    }
    LOCKSTEP_CHECK(next_ != known_.end(), "parameter ", path, " of shape ", parameter.shape(),
                   " was added to the module after its DistributedDataParallel was made");
    ++next_;
  }
  void buffer(const std::string&, Buffer&) override {}

  const std::vector<NamedParameter>& known_;
  std::vector<NamedParameter>::const_iterator next_;
};

}  // namespace

DistributedDataParallel::DistributedDataParallel(Module& module, Communicator& communicator,
                                                 DataParallelOptions options)
    : module_(module),
      communicator_(communicator),
      options_(std::move(options)),
      parameters_(module.named_parameters()),
      late_(parameters_.size(), false) {
  LOCKSTEP_CHECK(communicator_.size() < kMostRanks, "data parallelism over ", communicator_.size(),
                 " ranks");
  check_same_model(communicator_, parameters_, describe(options_), refusal());
  wrap_hook();
  choose_members();
  std::vector<Array> state;
  if (options_.shard == ShardLevel::none) {
    place_module(module);
    state.push_back(values_);
  } else {
    make_sharding();
  }
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (member_of_[i] == kOutside) state.push_back(parameters_[i].parameter.tensor().value());
  }
  const std::vector<NamedBuffer> buffers = module.named_buffers();
  if (options_.broadcast_buffers) {
    for (const Work& work : buffers_.emplace(buffers).broadcast(communicator_)) work.wait();
  } else {
    for (const NamedBuffer& named : buffers) state.push_back(named.buffer.array());
  }
  broadcast_values(communicator_, state, "initial state");
  reducer_.emplace(sharding_ ? sharding_->bucket_of() : layout_.bucket_of,
                   static_cast<int>(bucket_count()), [this](int bucket) { return launch(bucket); });
  attach_hooks();
}

DistributedDataParallel::~DistributedDataParallel() {
  for (const NamedParameter& named : parameters_) {
    Leaf& leaf = named.parameter.leaf();
    leaf.set_hook({});
    leaf.set_marked(false);
    leaf.set_busy(false);
    leaf.set_vacate({});
    named.parameter.set_reduction_pending(false);
  }
  sharding_.reset();  // before what it refers to
}

// Why this rank cannot take part; empty: it can.
std::string DistributedDataParallel::refusal() const {
  const Device expected = communicator_.device();
  const auto elsewhere = [&](std::string_view what, Device device) {
    return device == expected ? std::string()
                              : concat({"data parallelism: ", what, " is on ", device.to_string(),
                                        ", the communicator on ", expected.to_string()});
  };
  for (const auto& [name, parameter] : parameters_) {
    if (!parameter.placed()) continue;
    if (parameter.leaf().has_hook()) {
      return concat({"the parameter ", name,
                     " belongs to another DistributedDataParallel, which has to end first"});
    }
    std::string reason = elsewhere("parameter " + name, parameter.tensor().device());
    if (!reason.empty()) return reason;
  }
  return module_.placed() ? "" : elsewhere("the module's placement", options_.placement.device);
}

// Last parameter first: about the order in which backward finishes them.
void DistributedDataParallel::choose_members() {
  member_of_.assign(parameters_.size(), kOutside);
  if (options_.shard != ShardLevel::none) {  // frozen ones have buckets of their own
    members_.resize(parameters_.size());
    std::iota(members_.begin(), members_.end(), 0);
    member_of_ = members_;
    return;
  }
  for (int i = static_cast<int>(parameters_.size()) - 1; i >= 0; --i) {
    if (parameters_[i].parameter.frozen()) continue;
    member_of_[i] = static_cast<int>(members_.size());
    members_.push_back(i);
  }
}

void DistributedDataParallel::place_module(Module& module) {
  if (!module.placed()) module.place(options_.placement);
  std::vector<int> order(members_.size());
  std::iota(order.begin(), order.end(), 0);
  move_into(packed(order));
}

void DistributedDataParallel::make_sharding() {
  const bool whole = options_.shard < ShardLevel::parameters;
  LOCKSTEP_CHECK(!options_.tune_bucket_sizes,
                 "sharding: bucket sizes cannot be tried out, slices stay where they are");
  LOCKSTEP_CHECK(!options_.hook || !reduces_each_micro_batch(),
                 "sharding: a communication hook sees one reduction a step, sharded gradients have "
                 "one for each micro-batch; reduce_dtype works with them");
  if (whole && !module_.placed()) module_.place(options_.placement);
  std::vector<Sharding::Group> groups =
      whole ? groups_by_size(parameters_, options_.placement.dtype, options_.bucket_sizes)
            : groups_by_block(parameters_, options_.copies != nullptr);
  sharding_ = std::make_unique<Sharding>(parameters_, std::move(groups), communicator_,
                                         Sharding::Options{.level = options_.shard,
                                                           .placement = options_.placement,
                                                           .reduce_dtype = options_.reduce_dtype,
                                                           .hook = options_.hook,
                                                           .prefetch = options_.prefetch,
                                                           .copies = options_.copies});
  if (module_.placed()) return;
  for (auto& [name, buffer] : module_.named_buffers()) {
    buffer.place(options_.placement.dtype, options_.placement.device);
  }
  module_.mark_placed();
}

// Memory for all buckets.
Array DistributedDataParallel::new_gradients(DType dtype) const {
  const Purpose purpose("gradients");
  const Array gradients = communicator_.allocate_bucket(layout_.elements, dtype);
  kernels::fill(gradients, 0);
  return gradients;
}

// Values and gradients of all members, with what they hold, to flat memory of this layout.
void DistributedDataParallel::move_into(FlatLayout layout) {
  layout_ = std::move(layout);
  const Placement placement = options_.placement;
  const DType dtype = members_.empty() ? placement.dtype : parameter(0).dtype();
  const Device device = members_.empty() ? placement.device : parameter(0).tensor().device();
  const Array gradients = new_gradients(dtype);
  for (size_t i = 0; i < members_.size(); ++i) {
    const int member = static_cast<int>(i);
    Leaf& leaf = parameter(member).leaf();
    leaf.seat_gradient(layout_.window(gradients, member, leaf.shape()));
  }
  gradients_ = gradients;
  const Purpose purpose("parameters");
  const Array values = Array::zeros({layout_.elements}, dtype, device);
  for (size_t i = 0; i < members_.size(); ++i) {
    const int member = static_cast<int>(i);
    parameter(member).seat(layout_.window(values, member, parameter(member).shape()));
  }
  values_ = values;
}

void DistributedDataParallel::attach_hooks() {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Leaf& leaf = parameters_[i].parameter.leaf();
    leaf.set_hook([this, index = static_cast<int>(i)] { on_fired(index); });
    leaf.set_vacate([this, index = static_cast<int>(i)] { vacate(index); });
  }
  mark_ends();
}

void DistributedDataParallel::on_fired(int index) {
  parameters_[index].parameter.set_reduction_pending(true);
  if (member_of_[index] == kOutside) {
    late_[index] = true;
  } else if (synchronize_) {
    if (!first_fired_) first_fired_ = time_of_device();
    reducer_->fired(member_of_[index]);
  }
}

// A device's host runs ahead of it: while bucket sizes are tried out it waits.
std::chrono::steady_clock::time_point DistributedDataParallel::time_of_device() const {
  if (tuning()) backend_of(communicator_.device()).synchronize();
  return std::chrono::steady_clock::now();
}

// A gradient is about to be written to a bucket that has left, or has no memory yet.
void DistributedDataParallel::vacate(int index) {
  if (sharding_) {
    const int bucket = reducer_->bucket_of(index);
    if (!reducer_->has_left(bucket) && !sharding_->asleep(bucket)) return sharding_->open(bucket);
  }
  Leaf& leaf = parameters_[index].parameter.leaf();
  leaf.set_busy(false);
  leaf.set_away(false);
  leaf.set_has_gradient(false);  // what is there stays there
  leaf.seat_gradient({});
  late_[index] = true;
}

Work DistributedDataParallel::launch(int index) {
  if (sharding_) {
    sharding_->reduce(index, weight_);
    return Work();
  }
  const FlatLayout::Bucket& bucket = layout_.buckets[index];
  GradientBucket out{.communicator = communicator_,
                     .index = index,
                     .values = layout_.bucket(gradients_, index),
                     .gradients = {},
                     .weight = weight_};
  // Within a replay: as soon as that has come so far, if no gradient comes later in it, and nothing
  // is queued here, which would come behind all of it.
  const Replay* replay = context().replay;
  std::shared_ptr<const Mark> ready = replay == nullptr ? nullptr : replay->reached();
  for (int member : bucket.members) {
    Leaf& leaf = parameter(member).leaf();
    out.gradients.push_back(layout_.window(gradients_, member, leaf.shape()));
    out.parameters.push_back(members_[member]);
    if (replay != nullptr && replay->is_to_come(&leaf)) {
      ready.reset();
    } else if (!leaf.has_gradient()) {
      kernels::fill(out.gradients.back(), 0);
      ready.reset();
    }
    leaf.set_busy(true);
  }
  if (weight_ == 0) {
    kernels::fill(out.values, 0);
  } else if (weight_ != 1) {
    kernels::scale_add(weight_, out.values, 0, out.values);
  }
  if (options_.hook) return options_.hook(out);
  return mean_of_bucket(out, weight_ == 1 ? ready : nullptr);
}

void DistributedDataParallel::wrap_hook() {
  if (!options_.hook && options_.reduce_dtype && options_.shard == ShardLevel::none) {
    options_.hook = compress_to(*options_.reduce_dtype);
  }
  if (!options_.hook) return;
  options_.hook = [this, hook = std::move(options_.hook)](const GradientBucket& bucket) {
    try {
      return hook(bucket);
    } catch (const CollectiveError&) {
      throw;
    } catch (const std::exception& error) {
      break_step("the communication hook", error);
    }
  };
}

// Nobody knows which collectives of the bucket this rank has made.
void DistributedDataParallel::break_step(const char* what, const std::exception& error) {
  const std::string reason =
      concat({what, " failed on rank ", communicator_.rank(), " in ",
              communicator_.activity().now().describe(), ": ", error.what()});
  communicator_.abort(reason);
  throw CollectiveError(reason);
}

void DistributedDataParallel::set_weight(double weight) {
  LOCKSTEP_CHECK(!reducer_->has_left(0) && !reduced_,
                 "set_weight: gradients of this step are on their way; call it before backward");
  weight_ = weight;
}

void DistributedDataParallel::finish_reductions() {
  try {
    reducer_->flush();
    if (sharding_) sharding_->end_round();
  } catch (const CollectiveError&) {
    throw;
  } catch (const std::exception& error) {
    break_step(options_.hook ? "the communication hook" : "the reduction of gradients", error);
  }
}

void DistributedDataParallel::gather_parameters() {
  if (sharding_) sharding_->gather_all();
  communicator_.barrier({.what = "parameters gathered"}).wait();
}

void DistributedDataParallel::reduce() {
  LOCKSTEP_CHECK(reduces_each_micro_batch(),
                 "reduce: only sharded gradients are reduced before finish()");
  finish_reductions();
  reducer_->next_step();
  reduced_ = true;
}

StepReport DistributedDataParallel::finish(const StepReport& mine) {
  OnlyKnown known(parameters_);
  known("", module_);
  const auto start = std::chrono::steady_clock::now();
  // For the memory of gradients, and for parameters.
  const std::chrono::nanoseconds waited = sharding_ ? sharding_->take_waited() : exposed_.zero();
  finish_reductions();
  // The host waits once, for control.
  const std::vector<Work> buffers = begin_buffers();
  const Control total = control(mine);
  reduce_late(total.uses);
  for (const Work& work : buffers) work.wait();
  exposed_ = std::chrono::steady_clock::now() - start;
  exposed_ += waited;
  if (sharding_) sharding_->take_waited();  // is in it
  const int size = communicator_.size();
  if (total.weight > 0 && total.weight != size) scale_gradients(size / total.weight);
  end_step(total.uses);
  tune(total.seconds / size);
  return total.report;
}

void DistributedDataParallel::scale_gradients(double factor) {
  if (sharding_) return sharding_->scale_gradients(factor);
  kernels::scale_add(factor, gradients_, 0, gradients_);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& parameter = parameters_[i].parameter;
    if (member_of_[i] != kOutside || !parameter.leaf().seated()) continue;
    kernels::scale_add(factor, parameter.leaf().gradient(), 0, parameter.leaf().gradient());
  }
}

void DistributedDataParallel::end_step(const std::vector<Use>& uses) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& parameter = parameters_[i].parameter;
    parameter.leaf().set_busy(false);
    parameter.leaf().set_has_gradient(uses[i].used > 0);
    parameter.set_reduction_pending(false);
  }
  std::fill(late_.begin(), late_.end(), false);
  weight_ = 1;
  reduced_ = false;
  first_fired_.reset();
  const std::vector<int> order = reducer_->order();
  reducer_->next_step();
  if (sharding_) {
    std::vector<bool> frozen;
    for (const Use& use : uses) frozen.push_back(use.frozen > 0);
    sharding_->end_step(frozen);
  } else {
    adopt_thawed(uses);
  }
  if (!packed_ && std::any_of(uses.begin(), uses.end(), [](const Use& use) { return use.used; })) {
    pack_in_observed_order(order);
  }
}

}  // namespace lockstep::nn
