#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "lockstep/collectives/communicator.h"
#include "lockstep/nn/module.h"
#include "lockstep/nn/parallel/flat_layout.h"
#include "lockstep/nn/parallel/reducer.h"

namespace lockstep::nn {

// What a rank says of its part of a step, and what all of them together said. Rides in the one
// control all-reduce a step.
struct StepReport {
  double loss_sum = 0;  // over the samples
  double samples = 0;
  double tokens = 0;
  double stop_requested = 0;  // ranks that were asked to stop
  double checkpoint_due = 0;  // ranks whose clock says so
  double failed = 0;          // ranks whose forward or backward threw
};

struct DataParallelOptions {
  BucketSizes bucket_sizes = {};
  Placement placement = {};  // for a module that has none yet
};

// Keeps a module's replicas in step (Li et al. 2020, VLDB): gradients live in flat buckets and are
// averaged over the ranks while backward still runs. A lifetime, not a wrapper: the module is used
// as before. The constructor checks that every rank holds the same model (the error names the first
// difference and both ranks), then gives all of them rank 0's parameters and buffers. Both
// references must outlive it. Construction and finish() are collective calls.
class DistributedDataParallel {
 public:
  DistributedDataParallel(Module& module, Communicator& communicator,
                          DataParallelOptions options = {});
  ~DistributedDataParallel();
  DistributedDataParallel(const DistributedDataParallel&) = delete;
  DistributedDataParallel& operator=(const DistributedDataParallel&) = delete;

  // While one lives, backward passes only add to the gradients: all but a step's last micro-batch.
  class NoSync {
   public:
    explicit NoSync(DistributedDataParallel& ddp) : ddp_(ddp), before_(ddp.synchronize_) {
      ddp_.synchronize_ = false;
    }
    ~NoSync() { ddp_.synchronize_ = before_; }
    NoSync(const NoSync&) = delete;
    NoSync& operator=(const NoSync&) = delete;

   private:
    DistributedDataParallel& ddp_;
    bool before_;
  };
  NoSync no_sync() { return NoSync(*this); }

  // Ends a step: every gradient is the mean over the ranks. A parameter that no rank used has no
  // gradient; one that only some used has the mean with zeros. Returns the sums over all ranks.
  // Where any rank failed, gradients are of no use and the caller drops the step.
  StepReport finish(const StepReport& mine = {});

  // Time that finish() waited for collectives in the last step: communication not hidden.
  std::chrono::nanoseconds exposed_communication() const { return exposed_; }
  int64_t bucket_count() const { return static_cast<int64_t>(gradients_.size()); }
  const std::vector<NamedParameter>& parameters() const { return parameters_; }

 private:
  void check_same_model();
  void place_flat(Module& module, const DataParallelOptions& options);
  void broadcast_state(Module& module);
  void attach_hooks();
  void complete_gradients();
  StepReport control(const StepReport& mine);

  Communicator& communicator_;
  std::vector<NamedParameter> parameters_;  // in the order of the module
  std::vector<int> trained_;                // indices of those that take gradients, in bucket order
  std::vector<NamedParameter> untrained_;   // frozen at the start
  FlatLayout layout_;                       // of trained_
  std::vector<Array> values_;               // flat, one a bucket
  std::vector<Array> gradients_;            // flat, one a bucket
  std::unique_ptr<Reducer> reducer_;
  bool synchronize_ = true;
  std::chrono::nanoseconds exposed_{0};
  Array control_;  // f64: the report, then how many ranks used each trained parameter
};

}  // namespace lockstep::nn
