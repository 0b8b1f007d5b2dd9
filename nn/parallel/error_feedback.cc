#include "lockstep/nn/parallel/error_feedback.h"

#include <cmath>

#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::nn {

void ErrorFeedback::add_to(const GradientBucket& bucket) const {
  if (bucket.weight == 0) return;
  for (size_t i = 0; i < bucket.gradients.size(); ++i) {
    const auto found = left_.find(bucket.parameter(i));
    const Array& gradient = bucket.gradients[i];
    if (found == left_.end() || found->second.shape() != gradient.shape()) continue;
    kernels::scale_add(bucket.weight, found->second, 1, gradient);
  }
}

void ErrorFeedback::keep(const GradientBucket& bucket, const Array& left) {
  if (bucket.weight == 0) return;
  std::vector<Array> parts;
  for (const Array& gradient : bucket.gradients) {
    parts.emplace_back(left.storage(), left.dtype(), gradient.shape(), gradient.strides(),
                       left.offset() + gradient.offset() - bucket.values.offset());
  }
  const std::vector<double> squares = kernels::sums_of_squares(parts);
  for (size_t i = 0; i < parts.size(); ++i) {
    const Array& own = parts[i];
    Array& kept = left_[bucket.parameter(i)];
    if (!kept || kept.shape() != own.shape()) {
      kept = Array::empty(own.shape(), own.dtype(), own.device());
    }
    std::isfinite(squares[i]) ? kernels::scale_add(1 / bucket.weight, own, 0, kept)
                              : kernels::fill(kept, 0);
  }
}

}  // namespace lockstep::nn
