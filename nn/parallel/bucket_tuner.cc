#include "lockstep/nn/parallel/bucket_tuner.h"

#include <algorithm>

namespace lockstep::nn {
namespace {

// Twice there and back: a machine that becomes slower meanwhile does not favour the first size.
constexpr int kTurns = 4;
constexpr double kWorthChanging = 0.98;

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

BucketTuner::BucketTuner(double total_mb, double usual_mb) {
  sizes_.push_back(usual_mb);
  for (double size = 1; size < total_mb; size *= 2) {
    if (size != usual_mb) sizes_.push_back(size);
  }
  if (usual_mb < total_mb) sizes_.push_back(total_mb);
  times_.resize(sizes_.size());
  for (int turn = 0; turn < kTurns; ++turn) {
    for (size_t i = 0; i < sizes_.size(); ++i) {
      order_.push_back(turn % 2 == 0 ? i : sizes_.size() - 1 - i);
    }
  }
}

void BucketTuner::add(double time) {
  if (done()) return;
  times_[order_[step_++]].push_back(time);
  if (done()) choose();
}

void BucketTuner::choose() {
  const double usual = median(times_[0]);
  double least = usual * kWorthChanging;
  for (size_t i = 1; i < sizes_.size(); ++i) {
    const double time = median(times_[i]);
    if (time >= least) continue;
    least = time;
    best_ = i;
  }
}

}  // namespace lockstep::nn
