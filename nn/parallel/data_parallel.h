#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/collectives/communicator.h"
#include "lockstep/nn/module.h"
#include "lockstep/nn/parallel/bucket_tuner.h"
#include "lockstep/nn/parallel/buffers.h"
#include "lockstep/nn/parallel/communication_hook.h"
#include "lockstep/nn/parallel/flat_layout.h"
#include "lockstep/nn/parallel/reducer.h"
#include "lockstep/nn/parallel/sharding.h"

namespace lockstep::nn {

// What a rank says of its part of a step, and what all of them together said. Rides in the one
// control all-reduce a step.
struct StepReport {
  double loss_sum = 0;  // over the samples
  double samples = 0;
  double tokens = 0;
  double stop_requested = 0;      // ranks that were asked to stop
  double checkpoint_due = 0;      // ranks whose clock says so
  double failed = 0;              // ranks whose forward or backward threw
  double checkpoint_written = 0;  // ranks whose shard of a checkpoint a thread has written
  double checkpoint_failed = 0;   // and where it could not
};

struct DataParallelOptions {
  BucketSizes bucket_sizes = {};
  Placement placement = {};  // for a module that has none yet
  // Tries bucket sizes over the first steps and keeps the best instead of bucket_sizes.other_mb.
  bool tune_bucket_sizes = false;
  // How a bucket is reduced; empty: the mean, as it is. A hook that throws on one rank breaks the
  // step for all: the others wait in collectives that this rank does not make.
  CommunicationHook hook = {};
  // Every finish() gives all ranks rank 0's buffers (running statistics), so that each step's first
  // forward pass begins with them, as in PyTorch. Within a step, under no_sync too, each rank's
  // forward passes change its own.
  bool broadcast_buffers = true;
  // What is shared out over the ranks instead of kept by each. A hook is an error where gradients
  // are. Where parameters are, all ranks have to make the same passes through the same modules: one
  // without samples makes passes over none.
  ShardLevel shard = ShardLevel::none;
  // What gradients travel in instead of their own dtype; without a hook.
  std::optional<DType> reduce_dtype = {};
  // Where autocast reads this module's parameters in 16 bits, if it does: sharded matrices are
  // gathered so. Not owned; outlives this.
  LowPrecisionCopies* copies = nullptr;
  // Sharded parameters: gathers the next block while one is used.
  bool prefetch = true;
};

// Keeps a module's replicas in step (Li et al. 2020, VLDB): gradients live in flat buckets and are
// averaged over the ranks while backward still runs. A lifetime, not a wrapper: the module is used
// as before. The constructor checks that every rank holds the same model (the error names the first
// difference and both ranks), then gives all of them rank 0's parameters and buffers. Both
// references must outlive it. Construction and finish() are collective calls.
//
// Any number of backward passes may make up a step, and each rank may use other parameters. In the
// first step buckets are cut in the reverse order of the module and wait for every parameter; then
// they are packed again in the order in which rank 0's gradients became ready, and wait for what
// was used in the step before. What comes later than its bucket travels in one late bucket.
class DistributedDataParallel {
 public:
  static constexpr int kMostRanks = 1 << 17;

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

  // What this rank's gradients count in the step's mean, sum(weight · gradient) / sum(weight): 1
  // unless set, before the backward passes that synchronise. A rank with fewer samples than the
  // others weighs as many; one that has none left passes 0 and calls finish(), without a backward,
  // until a report's samples say that all have run out:
  //
  //   for (;;) {
  //     const auto batch = loader.next();  // empty when this rank has run out
  //     const double samples = batch ? batch->size() : 0;
  //     optimizer.zero_grad();
  //     ddp.set_weight(samples);
  //     if (batch) loss_of(*batch).backward();
  //     if (ddp.finish({.samples = samples}).samples == 0) break;
  //     optimizer.step();
  //   }
  //
  // Throws Error where gradients of this step have left.
  void set_weight(double weight);

  // Ends a step: every gradient is the mean over the ranks. A parameter that no rank used has no
  // gradient; one that only some used has the mean with zeros. Returns the sums over all ranks.
  // Where any rank failed, gradients are of no use and the caller drops the step. Throws Error on
  // every rank where one has frozen what another has not, and where the module has parameters that
  // it did not have at construction. Gradients that nobody wants (a critic's, while a generator
  // learns) need it too, unless their parameters are frozen meanwhile.
  StepReport finish(const StepReport& mine = {});

  // Whether every micro-batch is reduced, not only a step's last: after each but the last comes
  // reduce(), on all ranks equally often, instead of a no_sync() around it. (Under no_sync() all
  // gradients keep their memory, as without sharding.)
  bool reduces_each_micro_batch() const { return options_.shard >= ShardLevel::gradients; }
  void reduce();

  // Brings the whole of every parameter to every rank, until the next update: for what one rank
  // does alone, such as writing or sampling from the model. A collective call, after which every
  // rank has them: others may end or change theirs while one still uses the model.
  void gather_parameters();

  // Whether a backward pass sends gradients: not under no_sync().
  bool synchronizes() const { return synchronize_; }
  // Whether buckets of a replayed pass (nn/captured_passes.h) leave while it still runs, as long as
  // its weight is 1; otherwise they leave behind it.
  bool overlaps_replays() const { return !sharding_ && !options_.hook && !tuning(); }

  // Other bucket sizes from the next step on. The same on all ranks.
  void set_bucket_sizes(const BucketSizes& sizes);

  // Time that the last step waited for collectives, in finish() and for what is sharded:
  // communication not hidden.
  std::chrono::nanoseconds exposed_communication() const { return exposed_; }
  int64_t bucket_count() const {
    return sharding_ ? sharding_->bucket_count() : static_cast<int64_t>(layout_.buckets.size());
  }
  // Where nothing is sharded.
  double bucket_mb() const {
    return options_.bucket_sizes.other_of(values_ ? mb_of(values_.bytes()) : 0);
  }
  bool tuning() const { return tuner_ && !tuner_->done(); }
  // Parameters that travelled in the last step's late bucket.
  int64_t late_count() const { return late_count_; }
  const std::vector<NamedParameter>& parameters() const { return parameters_; }

 private:
  // What a parameter did in a step, as the control all-reduce adds it up.
  struct Use {
    int64_t used = 0;  // ranks
    int64_t late = 0;
    int64_t frozen = 0;
  };
  // The sums of the control all-reduce.
  struct Control {
    StepReport report;
    double weight = 0;
    double seconds = 0;  // from the first gradient until all buckets had come
    std::vector<Use> uses;
  };
  static constexpr int kOutside = -1;

  Parameter& parameter(int member) { return parameters_[members_[member]].parameter; }
  std::string refusal() const;
  void choose_members();
  void place_module(Module& module);
  Array new_gradients(DType dtype) const;
  void move_into(FlatLayout layout);
  void attach_hooks();
  void mark_ends();
  void on_fired(int index);
  std::chrono::steady_clock::time_point time_of_device() const;
  void vacate(int index);
  void wrap_hook();
  void finish_reductions();
  std::vector<Work> begin_buffers();
  Work launch(int bucket);
  [[noreturn]] void break_step(const char* what, const std::exception& error);
  Control control(const StepReport& mine);
  [[noreturn]] void fail_different();
  void tune(double seconds);
  void reduce_late(const std::vector<Use>& uses);
  void adopt_thawed(const std::vector<Use>& uses);
  void scale_gradients(double factor);
  std::vector<int> memory_order() const;
  FlatLayout packed(const std::vector<int>& order);
  void regroup();
  std::vector<int> order_of_rank_zero(const std::vector<int>& observed);
  void pack_in_observed_order(const std::vector<int>& observed);
  void make_sharding();
  bool used(size_t index) const;
  void end_step(const std::vector<Use>& uses);

  Module& module_;
  Communicator& communicator_;
  DataParallelOptions options_;
  std::vector<NamedParameter> parameters_;  // in the order of the module
  std::optional<SharedBuffers> buffers_;    // that finish() broadcasts
  std::vector<int> members_;                // indices of those that have a place in a bucket
  std::vector<int> member_of_;              // of each parameter; kOutside: frozen so far
  std::vector<bool> late_;                  // of each parameter, in this step
  FlatLayout layout_;                       // of members_
  Array values_;                            // flat
  Array gradients_;                         // flat
  std::unique_ptr<Sharding> sharding_;      // instead of layout_, values_ and gradients_
  std::optional<Reducer> reducer_;
  std::optional<BucketTuner> tuner_;
  std::optional<std::chrono::steady_clock::time_point> first_fired_;  // in this step
  bool packed_ = false;                                               // in observed order
  bool synchronize_ = true;
  bool reduced_ = false;  // a part of this step
  double weight_ = 1;
  int64_t late_count_ = 0;
  std::chrono::nanoseconds exposed_{0};
};

}  // namespace lockstep::nn
