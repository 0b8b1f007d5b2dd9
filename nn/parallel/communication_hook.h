#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "lockstep/collectives/communicator.h"
#include "lockstep/runtime/array.h"

namespace lockstep::nn {

// A bucket of gradients on its way out.
struct GradientBucket {
  Communicator& communicator;
  int index;                         // 0 leaves first
  Array values;                      // flat, padding (zeros) between the gradients
  std::vector<Array> gradients;      // windows on it, in the parameters' shapes
  std::vector<int> parameters = {};  // whose they are: indices in the order of the module
  double weight = 1;                 // what the values have been multiplied by (set_weight)

  // A number for what is kept of gradient i from step to step.
  int parameter(size_t i) const {
    return parameters.empty() ? -1 - index * (1 << 16) - static_cast<int>(i) : parameters[i];
  }
};

// Starts the reduction of one bucket. When the Work has been waited for, `values` is to hold the
// ranks' mean. All ranks make the same collectives in the same order. What is to happen after a
// collective goes into Work::then.
using CommunicationHook = std::function<Work(const GradientBucket& bucket)>;

// The mean of the values as they are: what happens without a hook. `ready` as in CollectiveOptions.
Work mean_of_bucket(const GradientBucket& bucket, std::shared_ptr<const Mark> ready = {});

// Values travel in bf16 or f16. Over MPI and between threads the mean is taken in float.
CommunicationHook compress_to(DType dtype);

// Calls `report` with the time that each bucket's reduction took, from its start until it was
// waited for.
CommunicationHook timed(CommunicationHook hook,
                        std::function<void(int bucket, std::chrono::nanoseconds)> report);

// PowerSGD (Vogels, Karimireddy & Jaggi 2019): a gradient of n rows and m columns (the first
// dimension against the others) travels as the factors of a low-rank approximation, rank · (n + m)
// values. What the approximation leaves out is added to the next step's gradient (error feedback),
// and each step starts from the last one's factor (warm start). Gradients that would not shrink,
// and vectors, travel as they are.
struct PowerSgdOptions {
  int rank = 1;  // 1 to 4 in the paper
  bool error_feedback = true;
  bool warm_start = true;
  int64_t start_after = 2;  // steps with the plain mean before: early gradients change fast
  uint64_t seed = 0;        // of the first factors; the same on all ranks
};
CommunicationHook power_sgd(PowerSgdOptions options = {});

// Each rank sends its largest values in magnitude with their places; the rest is added to its next
// step's gradient (Lin et al. 2018, Deep Gradient Compression, without its momentum).
struct TopKOptions {
  double fraction = 0.01;  // of a bucket's values
  bool error_feedback = true;
};
CommunicationHook top_k(TopKOptions options = {});

}  // namespace lockstep::nn
