#pragma once

#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "lockstep/collectives/communicator.h"
#include "lockstep/nn/module.h"
#include "lockstep/nn/parallel/communication_hook.h"
#include "lockstep/nn/parallel/flat_layout.h"
#include "lockstep/runtime/pager.h"

namespace lockstep::nn {

// What the ranks share out between them instead of each keeping all of it: the three stages of ZeRO
// (Rajbhandari et al. 2020, SC). Each includes those before it.
enum class ShardLevel : uint8_t {
  none,
  optimizer,   // 1: optimizer state
  gradients,   // 2: gradients, reduced after every micro-batch
  parameters,  // 3: parameters, gathered while they are used
};

// Keeps parameters and gradients in flat buckets of which every rank owns an equal slice: gradients
// are reduce-scattered into the slices, the optimizer updates them (Parameter::shard), and all
// ranks gather the new values, while the next forward pass runs and at the latest when it looks.
//
// Under `parameters` a bucket's whole values have memory only from the first look at one of them
// until a bucket of another block has been looked at. What is looked at next follows from the two
// looks before, as the last time: it is gathered meanwhile. All ranks have to look in the same
// order. Belongs to one thread.
class Sharding final : public ShardOwner, private ParameterPager {
 public:
  struct Options {
    ShardLevel level = ShardLevel::optimizer;
    Placement placement = {};
    std::optional<DType> reduce_dtype = {};  // what gradients travel in
    CommunicationHook hook = {};             // instead of the reduce-scatter
    bool prefetch = true;
  };
  // What lies together: indices of parameters, and the block that uses them.
  struct Group {
    std::vector<int> members;
    int block = 0;
  };

  // Each parameter is in one group; the first group leaves first. Parameters get memory, or move to
  // it, with rank 0's values. A collective call.
  Sharding(const std::vector<NamedParameter>& parameters, std::vector<Group> groups,
           Communicator& communicator, Options options);
  ~Sharding() override;

  int bucket_count() const { return static_cast<int>(buckets_.size()); }
  // Of each parameter.
  std::vector<int> bucket_of() const;
  // Other buckets first, from the next step on: `fired` are parameters in the order in which their
  // gradients became ready.
  void reorder(const std::vector<int>& fired);

  // Brings memory for a bucket's gradients, which a backward pass is about to write.
  void open(int bucket);
  // Starts the reduction of what this rank has, times `weight`.
  void reduce(int bucket, double weight);
  // Waits for all reductions. Gradients of the next micro-batch are added to the slices.
  void end_round();
  // Whether this step's rounds so far have reduced a gradient of this rank's.
  bool used(int parameter) const { return used_[static_cast<size_t>(parameter)]; }
  // Adds a mean that came apart from its bucket, and gives the gradient its place again.
  void add_late(int parameter, const Array& mean);
  void scale_gradients(double factor);
  // The next round's gradients replace those in the slices.
  void end_step();

  // Time spent waiting for collectives since the last call.
  std::chrono::nanoseconds take_waited() { return std::exchange(waited_, {}); }

  void values_changed() override;
  void sum(std::span<double> values) override;
  void maximum(std::span<double> values) override;

 private:
  enum class Values : uint8_t { here, arriving, away };
  class ValuesGuard;
  struct Bucket {
    std::vector<int> members;
    int block = 0;
    int64_t elements = 0;  // a multiple of the number of ranks
    Array values, own_values;
    std::shared_ptr<ValuesGuard> guard;  // of values
    Array gradients, own_gradients;
    Values state = Values::here;
    Work gather;
    uint64_t published = 0;  // version of own_values
    bool open = false;       // its gradients have memory
    bool fresh = true;       // nothing of this step is in own_gradients
  };
  using Look = const Bucket*;  // null: the values have changed

  const NamedParameter& parameter(int index) const {
    return parameters_[static_cast<size_t>(index)];
  }
  bool sharded(ShardLevel level) const { return options_.level >= level; }
  Array window(const Bucket& bucket, const Array& flat, int index) const;
  Array own_slice(const Array& flat) const;
  void let_go();
  void lay_out(Bucket& bucket);
  void make_values(Bucket& bucket);
  void fill_slices(Bucket& bucket, uint64_t seed);
  void fill_values(Bucket& bucket);
  void make_gradients(Bucket& bucket);
  void seat(Bucket& bucket);
  bool asleep(const Bucket& bucket) const;
  void clear_unwritten(const Bucket& bucket);
  void complete_first();
  void close(Bucket& bucket);

  void start_gather(Bucket& bucket);
  void wait(const Work& work);
  void bring(Bucket& bucket);
  void look_at(Look bucket);
  void prefetch();
  void take_away(Bucket& bucket);
  void between_ops() override;
  void reduce_numbers(std::span<double> values, ReduceOp op);

  const std::vector<NamedParameter>& parameters_;
  Communicator& communicator_;
  Options options_;
  std::vector<std::unique_ptr<Bucket>> buckets_;  // in the order in which they leave
  std::vector<Bucket*> place_of_;                 // of each parameter
  std::vector<int64_t> offset_of_;                // in its bucket
  std::vector<bool> used_;
  struct Reduction {
    Bucket* bucket;
    Work work;
  };
  std::deque<Reduction> reductions_;  // under way
  std::shared_ptr<StorageGuard> gradient_guard_;
  std::pair<Look, Look> looks_;  // the last two
  std::map<std::pair<Look, Look>, Look> next_look_;
  std::chrono::nanoseconds waited_{0};
};

// Groups of ZeRO-3: parameters of one element of a list of modules ("h.3", "layer1.0"), or of one
// module elsewhere ("wte"). In reverse order of the module; frozen ones apart, at the end.
std::vector<Sharding::Group> groups_by_block(const std::vector<NamedParameter>& parameters);
// Groups of about these sizes, likewise.
std::vector<Sharding::Group> groups_by_size(const std::vector<NamedParameter>& parameters,
                                            DType dtype, const BucketSizes& sizes);

}  // namespace lockstep::nn
