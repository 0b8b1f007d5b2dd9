#include "lockstep/nn/parallel/data_parallel.h"

#include <algorithm>
#include <string>

#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::nn {
namespace {

constexpr int kReportFields = 6;
static_assert(sizeof(StepReport) == kReportFields * sizeof(double));

std::string describe(const std::vector<NamedParameter>& parameters) {
  std::string lines;
  for (const auto& [name, parameter] : parameters) {
    lines += name + " " + parameter.shape().to_string();
    if (parameter.placed()) lines += " " + std::string(name_of(parameter.dtype()));
    if (parameter.frozen()) lines += " frozen";
    lines += '\n';
  }
  return lines;
}

// The n-th line of a text, or a word for its absence.
std::string line_at(const std::string& text, size_t position) {
  const size_t begin = position == 0 ? 0 : text.rfind('\n', position - 1) + 1;
  if (begin >= text.size()) return "nothing more";
  return "'" + text.substr(begin, text.find('\n', begin) - begin) + "'";
}

}  // namespace

DistributedDataParallel::DistributedDataParallel(Module& module, Communicator& communicator,
                                                 DataParallelOptions options)
    : communicator_(communicator), parameters_(module.named_parameters()) {
  check_same_model();
  place_flat(module, options);
  broadcast_state(module);
  std::vector<int> bucket_of;
  for (const FlatLayout::Place& place : layout_.places) bucket_of.push_back(place.bucket);
  reducer_ = std::make_unique<Reducer>(communicator_, gradients_, std::move(bucket_of));
  attach_hooks();
  control_ = Array::zeros({kReportFields + static_cast<int64_t>(trained_.size())}, DType::f64);
}

DistributedDataParallel::~DistributedDataParallel() {
  for (int index : trained_) {
    parameters_[index].parameter.leaf().set_hook({});
    parameters_[index].parameter.set_reduction_pending(false);
  }
}

void DistributedDataParallel::check_same_model() {
  const std::string mine = describe(parameters_);
  const std::vector<std::string> all = all_gather_text(communicator_, mine, "model check");
  for (size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank] == all[0]) continue;
    const size_t common = std::min(all[0].size(), all[rank].size());
    const size_t at =
        std::mismatch(all[0].begin(), all[0].begin() + common, all[rank].begin()).first -
        all[0].begin();
    fail({"the ranks hold different models: rank 0 has ", line_at(all[0], at), " where rank ", rank,
          " has ", line_at(all[rank], at)});
  }
}

// Values and gradients of the trained parameters move into flat buckets of one layout, last
// parameter first: the order in which backward finishes them.
void DistributedDataParallel::place_flat(Module& module, const DataParallelOptions& options) {
  const bool was_placed = module.placed();
  Placement placement = options.placement;
  std::vector<Shape> shapes;
  for (int i = static_cast<int>(parameters_.size()) - 1; i >= 0; --i) {
    const Parameter& parameter = parameters_[i].parameter;
    if (was_placed) placement.dtype = parameter.dtype();
    if (was_placed) placement.device = parameter.tensor().device();
    if (parameter.frozen()) {
      untrained_.push_back(parameters_[i]);
      continue;
    }
    trained_.push_back(i);
    shapes.push_back(parameter.shape());
  }
  layout_ = FlatLayout::pack(shapes, placement.dtype, options.bucket_sizes);
  for (int64_t elements : layout_.bucket_elements) {
    values_.push_back(Array::zeros({elements}, placement.dtype, placement.device));
    gradients_.push_back(communicator_.allocate_bucket(elements, placement.dtype));
    kernels::fill(gradients_.back(), 0);
  }
  for (size_t i = 0; i < trained_.size(); ++i) {
    auto& [name, parameter] = parameters_[trained_[i]];
    const Array value = layout_.window(values_, static_cast<int>(i), parameter.shape());
    if (!was_placed) parameter.initialize(value, 0, name, placement.seed);
    parameter.seat(value);
    parameter.leaf().seat_gradient(
        layout_.window(gradients_, static_cast<int>(i), parameter.shape()));
  }
  if (was_placed) return;
  for (auto& [name, parameter] : parameters_) {
    if (parameter.placed()) continue;
    const Array value = Array::empty(parameter.shape(), placement.dtype, placement.device);
    parameter.initialize(value, 0, name, placement.seed);
    parameter.seat(value);
  }
  for (auto& [name, buffer] : module.named_buffers()) {
    buffer.place(placement.dtype, placement.device);
  }
  module.mark_placed();
}

void DistributedDataParallel::broadcast_state(Module& module) {
  std::vector<Work> works;
  const auto send = [&](const Array& values) {
    works.push_back(communicator_.broadcast(values, 0, {.what = "initial state"}));
  };
  for (const Array& bucket : values_) send(bucket);
  for (const auto& [name, parameter] : parameters_) {
    if (parameter.frozen()) send(parameter.tensor().value());
  }
  for (const auto& [name, buffer] : module.named_buffers()) send(buffer.array());
  for (const Work& work : works) work.wait();
  for (const Array& bucket : values_) bucket.storage()->bump_version();
}

void DistributedDataParallel::attach_hooks() {
  for (size_t i = 0; i < trained_.size(); ++i) {
    const Parameter& parameter = parameters_[trained_[i]].parameter;
    parameter.leaf().set_hook([this, parameter, member = static_cast<int>(i)] {
      parameter.set_reduction_pending(true);
      if (synchronize_) reducer_->ready(member);
    });
  }
}

// What backward did not make ready: a parameter that was used in an earlier micro-batch only is
// complete as it is, one that was not used at all counts as zeros.
void DistributedDataParallel::complete_gradients() {
  for (const auto& [name, parameter] : untrained_) {
    LOCKSTEP_CHECK(parameter.frozen(), "parameter ", name,
                   " was frozen when data parallelism began: its gradient is not reduced");
  }
  for (size_t i = 0; i < trained_.size(); ++i) {
    const int member = static_cast<int>(i);
    if (reducer_->is_ready(member)) continue;
    const Leaf& leaf = parameters_[trained_[i]].parameter.leaf();
    if (!leaf.has_gradient()) kernels::fill(leaf.gradient(), 0);
    reducer_->ready(member);
  }
}

StepReport DistributedDataParallel::finish(const StepReport& mine) {
  const auto start = std::chrono::steady_clock::now();
  complete_gradients();
  reducer_->finish();
  const StepReport total = control(mine);
  exposed_ = std::chrono::steady_clock::now() - start;
  return total;
}

StepReport DistributedDataParallel::control(const StepReport& mine) {
  double* fields = control_.data<double>();
  std::copy_n(&mine.loss_sum, kReportFields, fields);
  for (size_t i = 0; i < trained_.size(); ++i) {
    fields[kReportFields + i] = parameters_[trained_[i]].parameter.leaf().has_gradient() ? 1 : 0;
  }
  communicator_.all_reduce(control_, Reduction::sum, {.what = "step control"}).wait();
  StepReport total;
  std::copy_n(fields, kReportFields, &total.loss_sum);
  for (size_t i = 0; i < trained_.size(); ++i) {
    const Parameter& parameter = parameters_[trained_[i]].parameter;
    parameter.leaf().set_has_gradient(fields[kReportFields + i] > 0);
    parameter.set_reduction_pending(false);
  }
  return total;
}

}  // namespace lockstep::nn
