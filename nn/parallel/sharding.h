#pragma once

#include <chrono>
#include <compare>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "lockstep/autograd/autocast.h"
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
// until those of another block have been looked at. What is looked at next follows from this look,
// the last one at another block and the number of passes since the last update, as the last time:
// it is gathered meanwhile. All ranks have to look in the same order. Belongs to one thread.
class Sharding final : public ShardOwner, private ParameterPager {
 public:
  struct Options {
    ShardLevel level = ShardLevel::optimizer;
    Placement placement = {};
    std::optional<DType> reduce_dtype = {};  // what gradients travel in
    CommunicationHook hook = {};             // instead of the reduce-scatter
    bool prefetch = true;
    // Under `parameters`: where autocast reads parameters in 16 bits. Buckets of matrices are
    // gathered so, rounded on their way, for who reads them there. Not owned.
    LowPrecisionCopies* copies = nullptr;
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

  // Whether the bucket is left out because all ranks had frozen all of it when the last step ended.
  // What has a gradient all the same comes late.
  bool asleep(int bucket) const { return buckets_[static_cast<size_t>(bucket)]->asleep; }
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
  // The next round's gradients replace those in the slices. `frozen`: of each parameter, as all
  // ranks agree.
  void end_step(const std::vector<bool>& frozen);

  // Brings all values here until they change: for what one rank does alone, such as writing the
  // model. A collective call.
  void gather_all();

  // Time spent waiting for collectives since the last call.
  std::chrono::nanoseconds take_waited() { return std::exchange(waited_, {}); }

  void values_changed() override;
  void sum(std::span<double> values) override;
  void maximum(std::span<double> values) override;

 private:
  class PageGuard;
  // Flat values that are gathered from the ranks' slices, in their dtype or another one.
  struct Page {
    enum class State : uint8_t { here, arriving, away };
    int block = 0;
    std::string name;
    Array whole;  // under `parameters` it has memory unless away
    Array own;
    State state = State::here;
    Work gather;
    std::shared_ptr<PageGuard> guard;
  };
  struct Bucket {
    std::vector<int> members;
    int block = 0;
    int64_t elements = 0;  // a multiple of the number of ranks
    Page* values = nullptr;
    Page* copy = nullptr;    // in 16 bits, where they are read so; null: nowhere
    uint64_t published = 0;  // version of the own values
    Array gradients, own_gradients;
    Array kept;  // slices of an earlier step's gradients, for the end of this one
    bool asleep = false;
    bool open = false;  // its gradients have memory
    bool fresh = true;  // nothing of this step is in own_gradients
  };
  using Look = Page*;  // null: the values have changed
  struct Looks {
    Look before = nullptr;  // the last one at another block
    Look here = nullptr;    // the last one
    Look first = nullptr;   // since the values have changed
    int round = 0;          // how often the first one has been looked at: which pass it is
    auto operator<=>(const Looks&) const = default;
    Looks of_any_pass() const { return {.before = before, .here = here}; }
  };

  const NamedParameter& parameter(int index) const {
    return parameters_[static_cast<size_t>(index)];
  }
  bool sharded(ShardLevel level) const { return options_.level >= level; }
  static std::shared_ptr<StorageGuard> gradient_guard();
  // The memory of a storage that is guarded, for collectives.
  static Array unguarded(const Array& flat);
  Array window(const Bucket& bucket, const Array& flat, int index) const;
  Array own_slice(const Array& flat) const;
  void let_go();
  void let_go_of(Page& page);
  void lay_out(Bucket& bucket);
  void make_values(Bucket& bucket);
  void make_copy(Bucket& bucket);
  Page& add_page(Array whole, Array own, int block, std::string name);
  void fill_slices(const Bucket& bucket, const Array& own);
  void fill_values(const Bucket& bucket, const Array& whole);
  void make_gradients(Bucket& bucket);
  void seat(Bucket& bucket);
  void fall_asleep(const std::vector<bool>& frozen);
  void keep(Bucket& bucket, int index);
  void clear_unwritten(const Bucket& bucket);
  void complete_first();
  void close(Bucket& bucket);

  void start_gather(Page& page);
  void wait(const Work& work);
  void bring(Page& page);
  static Looks after(const Looks& looks, Look page);
  void look_at(Look page);
  Look expected_after(const Looks& looks) const;
  std::vector<Look> expected_looks() const;
  void prefetch();
  void take_away(Page& page);
  void publish(Page& page);
  void forget_copies();
  void take_back() noexcept override;
  void bring_ahead() override;
  void reduce_numbers(std::span<double> values, ReduceOp op);

  const std::vector<NamedParameter>& parameters_;
  Communicator& communicator_;
  Options options_;
  std::vector<std::unique_ptr<Bucket>> buckets_;  // in the order in which they leave
  std::vector<std::unique_ptr<Page>> pages_;
  std::vector<Bucket*> place_of_;   // of each parameter
  std::vector<int64_t> offset_of_;  // in its bucket
  std::vector<bool> used_;
  struct Reduction {
    Bucket* bucket;
    Work work;
  };
  std::deque<Reduction> reductions_;  // under way
  std::shared_ptr<StorageGuard> gradient_guard_;
  bool looked_ = false;  // since the last bring_ahead()
  bool pinned_ = false;  // all values stay here
  Looks looks_;
  std::map<Looks, Look> next_look_;
  std::chrono::nanoseconds waited_{0};
};

// Groups of ZeRO-3: the parameters of one block (nn/blocks.h). In reverse order of the module;
// frozen ones apart, at the end, and vectors apart from matrices where these are gathered in
// another dtype.
std::vector<Sharding::Group> groups_by_block(const std::vector<NamedParameter>& parameters,
                                             bool vectors_apart);
// Groups of about these sizes, likewise.
std::vector<Sharding::Group> groups_by_size(const std::vector<NamedParameter>& parameters,
                                            DType dtype, const BucketSizes& sizes);

}  // namespace lockstep::nn
