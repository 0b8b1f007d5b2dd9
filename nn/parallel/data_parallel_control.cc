// What ranks tell each other at the end of a step, and what came too late for its bucket.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "lockstep/collectives/activity.h"
#include "lockstep/nn/parallel/data_parallel.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::nn {
namespace {

// Fields of the control all-reduce: a report, weight, seconds, words of the history with their
// squares, then one for each parameter.
constexpr int kReportFields = 8, kHistoryWords = 3;
constexpr int kWeight = kReportFields, kSeconds = kWeight + 1, kHistory = kSeconds + 1;
constexpr int kFirstUse = kHistory + 2 * kHistoryWords;
static_assert(sizeof(StepReport) == kReportFields * sizeof(double));

// Three counts of ranks in one double, which holds 53 bits exactly.
constexpr double kLateUnit = DistributedDataParallel::kMostRanks;
constexpr double kFrozenUnit = kLateUnit * kLateUnit;

// A sum of words and that of their squares tell whether all are the same: n Σw² = (Σw)² only then.
// Words of 15 bits keep both exact for as many ranks as there may be.
constexpr int kWordBits = 15;
constexpr uint64_t kWordMask = (uint64_t{1} << kWordBits) - 1;

void write_history(uint64_t history, double* fields) {
  for (int i = 0; i < kHistoryWords; ++i) {
    const auto word = static_cast<double>(history >> (i * kWordBits) & kWordMask);
    fields[2 * i] = word;
    fields[2 * i + 1] = word * word;
  }
}

bool same_history(const double* sums, int size) {
  const auto ranks = static_cast<uint64_t>(size);
  for (int i = 0; i < kHistoryWords; ++i) {
    const double sum = sums[2 * i], squares = sums[2 * i + 1];
    const auto is_possible = [&](double value, uint64_t most) {  // it may be anything
      return value >= 0 && value <= static_cast<double>(ranks * most) && value == std::floor(value);
    };
    if (!is_possible(sum, kWordMask) || !is_possible(squares, kWordMask * kWordMask)) return false;
    const auto total = static_cast<uint64_t>(sum);
    if (ranks * static_cast<uint64_t>(squares) != total * total) return false;
  }
  return true;
}

}  // namespace

// Whether this rank has a gradient of it in this step.
bool DistributedDataParallel::used(size_t index) const {
  if (late_[index]) return true;
  return sharding_ ? sharding_->used(static_cast<int>(index))
                   : parameters_[index].parameter.leaf().has_gradient();
}

// On the host, wherever the gradients are.
DistributedDataParallel::Control DistributedDataParallel::control(const StepReport& mine) {
  using Seconds = std::chrono::duration<double>;
  const Array array =
      Array::zeros({kFirstUse + static_cast<int64_t>(parameters_.size())}, DType::f64);
  double* fields = array.data<double>();
  double* uses = fields + kFirstUse;
  std::copy_n(&mine.loss_sum, kReportFields, fields);
  fields[kWeight] = weight_;
  write_history(communicator_.history(), fields + kHistory);
  if (first_fired_) {
    fields[kSeconds] = Seconds(time_of_device() - *first_fired_).count();
  }
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& parameter = parameters_[i].parameter;
    uses[i] =
        (used(i) ? 1 : 0) + (late_[i] ? kLateUnit : 0) + (parameter.frozen() ? kFrozenUnit : 0);
  }
  communicator_.all_reduce(array, ReduceOp::sum, {.what = "step control"}).wait();
  if (!same_history(fields + kHistory, communicator_.size())) fail_different();
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

// Transports that do not compare what ranks call let some differences pass: values are wrong then.
void DistributedDataParallel::fail_different() {
  const std::string reason =
      concat({"ranks called different collectives in or before ",
              communicator_.activity().now().describe(), ": their number, order, lengths, dtypes, ",
              "reductions, roots, names or buckets differ, as rank ", communicator_.rank(),
              " sees it; the flight-rank-N.json of each rank has its last ones"});
  communicator_.abort(reason);
  throw CollectiveError(reason);
}

// Rank 0's for all.
std::vector<Work> DistributedDataParallel::begin_buffers() {
  if (!buffers_) return {};
  try {
    return buffers_->broadcast(communicator_);
  } catch (const CollectiveError&) {
    throw;
  } catch (const std::exception& error) {
    break_step("the broadcast of buffers", error);
  }
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

}  // namespace lockstep::nn
