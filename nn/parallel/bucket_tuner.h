#pragma once

#include <cstddef>
#include <vector>

namespace lockstep::nn {

// Finds the bucket size with which steps are shortest: tries sizes in turns over the first steps
// and keeps the one with the best median. Given the same times on all ranks, it decides alike on
// all.
class BucketTuner {
 public:
  // For gradients of `total_mb`. Another size than `usual_mb` must be 2% better.
  BucketTuner(double total_mb, double usual_mb);

  bool done() const { return step_ == order_.size(); }
  // Of the next step; when done, of all that follow.
  double size_mb() const { return sizes_[done() ? best_ : order_[step_]]; }
  // A step with size_mb() took this long, in any unit. Nothing when done.
  void add(double time);

  // What is tried: 1, 2, 4, … MiB below the total, the total, and the usual size.
  const std::vector<double>& sizes() const { return sizes_; }

 private:
  void choose();

  std::vector<double> sizes_;
  std::vector<std::vector<double>> times_;  // of each size
  std::vector<size_t> order_;               // of the steps: sizes, there and back
  size_t step_ = 0;
  size_t best_ = 0;
};

}  // namespace lockstep::nn
