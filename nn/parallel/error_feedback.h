#pragma once

#include <map>

#include "lockstep/nn/parallel/communication_hook.h"

namespace lockstep::nn {

// What a rank did not send yet, of each parameter, however its buckets are cut meanwhile. It is
// kept as of weight 1 (GradientBucket::weight). Where an overflow has left something infinite,
// nothing is kept: it would never go away.
class ErrorFeedback {
 public:
  // Adds it to a bucket's gradients; nothing to those of a rank that does not count.
  void add_to(const GradientBucket& bucket) const;
  // `left` has the bucket's layout.
  void keep(const GradientBucket& bucket, const Array& left);

 private:
  std::map<int, Array> left_;
};

}  // namespace lockstep::nn
