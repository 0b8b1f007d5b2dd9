#include "lockstep/nn/parallel/data_parallel.h"

#include <algorithm>
#include <numeric>

#include "lockstep/collectives/activity.h"
#include "lockstep/nn/parallel/buffers.h"
#include "lockstep/nn/parallel/same_model.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::nn {
namespace {

// Fields of the control all-reduce: a report, weight, seconds, then one for each parameter.
constexpr int kReportFields = 6;
constexpr int kWeight = kReportFields, kSeconds = kWeight + 1, kFirstUse = kSeconds + 1;
static_assert(sizeof(StepReport) == kReportFields * sizeof(double));

// Three counts of ranks in one double, which holds 53 bits exactly.
constexpr double kLateUnit = 1 << 17;
constexpr double kFrozenUnit = kLateUnit * kLateUnit;

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
  LOCKSTEP_CHECK(communicator_.size() < kLateUnit, "data parallelism over ", communicator_.size(),
                 " ranks");
  check_same_model(communicator_, parameters_);
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
  std::vector<NamedBuffer> buffers = module.named_buffers();
  for (const NamedBuffer& named : buffers) state.push_back(named.buffer.array());
  if (options_.broadcast_buffers) buffers_ = std::move(buffers);
  broadcast_values(communicator_, state, "initial state");
  reducer_.emplace(sharding_ ? sharding_->bucket_of() : layout_.bucket_of,
                   static_cast<int>(bucket_count()), [this](int bucket) { return launch(bucket); });
  attach_hooks();
}

DistributedDataParallel::~DistributedDataParallel() {
  for (const NamedParameter& named : parameters_) {
    Leaf& leaf = named.parameter.leaf();
    leaf.set_hook({});
    leaf.set_busy(false);
    leaf.set_vacate({});
    named.parameter.set_reduction_pending(false);
  }
  sharding_.reset();  // before what it refers to
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

// Values and gradients of all members, with what they hold, to flat memory of this layout.
void DistributedDataParallel::move_into(FlatLayout layout) {
  layout_ = std::move(layout);
  const Placement placement = options_.placement;
  const DType dtype = members_.empty() ? placement.dtype : parameter(0).dtype();
  const Device device = members_.empty() ? placement.device : parameter(0).tensor().device();
  const Array gradients = communicator_.allocate_bucket(layout_.elements, dtype);
  kernels::fill(gradients, 0);
  for (size_t i = 0; i < members_.size(); ++i) {
    const int member = static_cast<int>(i);
    Leaf& leaf = parameter(member).leaf();
    leaf.seat_gradient(layout_.window(gradients, member, leaf.shape()));
  }
  gradients_ = gradients;
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
}

void DistributedDataParallel::on_fired(int index) {
  parameters_[index].parameter.set_reduction_pending(true);
  if (member_of_[index] == kOutside) {
    late_[index] = true;
  } else if (synchronize_) {
    if (!first_fired_) first_fired_ = std::chrono::steady_clock::now();
    reducer_->fired(member_of_[index]);
  }
}

// A gradient is about to be written to a bucket that has left, or has no memory yet.
void DistributedDataParallel::vacate(int index) {
  if (sharding_ && !reducer_->has_left(reducer_->bucket_of(index))) {
    return sharding_->open(reducer_->bucket_of(index));
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
  GradientBucket out{communicator_, index, layout_.bucket(gradients_, index), {}};
  for (int member : bucket.members) {
    Leaf& leaf = parameter(member).leaf();
    out.gradients.push_back(layout_.window(gradients_, member, leaf.shape()));
    if (!leaf.has_gradient()) kernels::fill(out.gradients.back(), 0);
    leaf.set_busy(true);
  }
  if (weight_ == 0) {
    kernels::fill(out.values, 0);
  } else if (weight_ != 1) {
    kernels::scale_add(weight_, out.values, 0, out.values);
  }
  return options_.hook ? options_.hook(out) : mean_of_bucket(out);
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
      fail_hook(error);
    }
  };
}

// Nobody knows which collectives of the bucket this rank has made.
void DistributedDataParallel::fail_hook(const std::exception& error) {
  const std::string reason =
      concat({"the reduction of gradients failed on rank ", communicator_.rank(), " in ",
              communicator_.activity().now().describe(), ": ", error.what()});
  communicator_.abort(reason);
  throw CollectiveError(reason);
}

void DistributedDataParallel::set_weight(double weight) {
  LOCKSTEP_CHECK(!reducer_->has_left(0),
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
    fail_hook(error);
  }
}

void DistributedDataParallel::reduce() {
  LOCKSTEP_CHECK(reduces_each_micro_batch(),
                 "reduce: only sharded gradients are reduced before finish()");
  finish_reductions();
  reducer_->next_step();
}

// Whether this rank has a gradient of it in this step.
bool DistributedDataParallel::used(size_t index) const {
  if (late_[index]) return true;
  return sharding_ ? sharding_->used(static_cast<int>(index))
                   : parameters_[index].parameter.leaf().has_gradient();
}

StepReport DistributedDataParallel::finish(const StepReport& mine) {
  OnlyKnown known(parameters_);
  known("", module_);
  const auto start = std::chrono::steady_clock::now();
  // For the memory of gradients, and for parameters.
  const std::chrono::nanoseconds waited = sharding_ ? sharding_->take_waited() : exposed_.zero();
  finish_reductions();
  const Control total = control(mine);
  reduce_late(total.uses);
  broadcast_buffers(communicator_, buffers_);
  exposed_ = std::chrono::steady_clock::now() - start;
  exposed_ += waited;
  if (sharding_) sharding_->take_waited();  // is in it
  const int size = communicator_.size();
  if (total.weight > 0 && total.weight != size) scale_gradients(size / total.weight);
  end_step(total.uses);
  tune(total.seconds / size);
  return total.report;
}

DistributedDataParallel::Control DistributedDataParallel::control(const StepReport& mine) {
  using Seconds = std::chrono::duration<double>;
  const Array array =
      Array::zeros({kFirstUse + static_cast<int64_t>(parameters_.size())}, DType::f64);
  double* fields = array.data<double>();
  double* uses = fields + kFirstUse;
  std::copy_n(&mine.loss_sum, kReportFields, fields);
  fields[kWeight] = weight_;
  if (first_fired_) {
    fields[kSeconds] = Seconds(std::chrono::steady_clock::now() - *first_fired_).count();
  }
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& parameter = parameters_[i].parameter;
    uses[i] =
        (used(i) ? 1 : 0) + (late_[i] ? kLateUnit : 0) + (parameter.frozen() ? kFrozenUnit : 0);
  }
  communicator_.all_reduce(array, ReduceOp::sum, {.what = "step control"}).wait();
  Control total{.weight = fields[kWeight], .seconds = fields[kSeconds]};
  std::copy_n(fields, kReportFields, &total.report.loss_sum);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const auto counts = static_cast<int64_t>(uses[i]);
    const auto unit = static_cast<int64_t>(kLateUnit);
    const Use use{counts % unit, counts / unit % unit, counts / unit / unit};
    LOCKSTEP_CHECK(use.frozen == 0 || use.frozen == communicator_.size(), "parameter ",
                   parameters_[i].name, " is frozen on ", use.frozen, " of ", communicator_.size(),
                   " ranks: all or none must freeze it");
    total.uses.push_back(use);
  }
  return total;
}

// What came too late for its bucket on any rank goes in one of its own, and is added.
void DistributedDataParallel::reduce_late(const std::vector<Use>& uses) {
  std::vector<int> late;
  std::vector<Shape> shapes;
  for (size_t i = 0; i < uses.size(); ++i) {
    if (uses[i].late == 0) continue;
    late.push_back(static_cast<int>(i));
    shapes.push_back(parameters_[i].parameter.shape());
  }
  late_count_ = static_cast<int64_t>(late.size());
  if (late.empty()) return;
  std::vector<int> order(late.size());
  std::iota(order.begin(), order.end(), 0);
  const Array& like = parameters_[late[0]].parameter.tensor().value();
  const double all = 1e9;  // megabytes: one bucket
  const FlatLayout layout = FlatLayout::pack(shapes, order, like.dtype(), {all, all, all});
  const Array flat = Array::zeros({layout.elements}, like.dtype(), like.device());
  for (size_t i = 0; i < late.size(); ++i) {
    // Nothing came where the backward pass threw just before.
    if (weight_ == 0 || !late_[late[i]] || !parameters_[late[i]].parameter.leaf().has_gradient()) {
      continue;
    }
    const Array& mine = parameters_[late[i]].parameter.leaf().gradient();
    kernels::scale_add(weight_, mine, 0, layout.window(flat, static_cast<int>(i), shapes[i]));
  }
  communicator_.all_reduce(flat, ReduceOp::mean, {.what = "late gradients"}).wait();
  for (size_t i = 0; i < late.size(); ++i) {
    Leaf& leaf = parameters_[late[i]].parameter.leaf();
    const Array total = layout.window(flat, static_cast<int>(i), shapes[i]);
    const int member = member_of_[late[i]];
    if (sharding_) {
      sharding_->add_late(late[i], total);
      continue;
    }
    leaf.set_has_gradient(false);
    if (member == kOutside) {
      leaf.seat_gradient(kernels::copy(total));
    } else {
      const Array place = layout_.window(gradients_, member, shapes[i]);
      kernels::scale_add(1, total, 1, place);
      leaf.seat_gradient(place);
    }
  }
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
  first_fired_.reset();
  const std::vector<int> order = reducer_->order();
  reducer_->next_step();
  if (sharding_) {
    sharding_->end_step();
  } else {
    adopt_thawed(uses);
  }
  if (!packed_ && std::any_of(uses.begin(), uses.end(), [](const Use& use) { return use.used; })) {
    pack_in_observed_order(order);
  }
}

}  // namespace lockstep::nn
