#pragma once

#include <cstdint>

namespace lockstep::data {

// A permutation of [0, count) that is a function of (count, seed, epoch) alone and takes no memory:
// a balanced Feistel network keyed with Philox over the next power of four, whose values outside
// the range are sent through again (cycle walking: Black and Rogaway, "Ciphers with arbitrary
// finite domains", CT-RSA 2002).
class Permutation {
 public:
  Permutation(int64_t count, uint64_t seed, int64_t epoch);

  // The element at `index`, both in [0, count).
  int64_t operator()(int64_t index) const;

 private:
  uint64_t encrypt(uint64_t value) const;

  uint64_t count_;
  uint64_t key_;
  uint64_t epoch_;
  int half_bits_;
};

// The order of a run's samples: epoch after epoch, each a permutation of the data set. Position p
// of the run is p % count in epoch p / count. Nothing depends on the world size or on how a batch
// is cut.
class Sampler {
 public:
  Sampler(int64_t count, uint64_t seed);

  int64_t count() const { return count_; }
  int64_t epoch_of(int64_t position) const { return position / count_; }
  // The sample, in [0, count), at a position of the run.
  int64_t at(int64_t position) const;

 private:
  int64_t count_;
  uint64_t seed_;
};

// Consecutive positions of the run.
struct Share {
  int64_t first = 0;
  int64_t count = 0;
};

// How a run is cut into optimizer steps and the ranks share each. A step takes global_batch
// positions, or what is left of its epoch and of the run; each rank takes a contiguous part of
// them, micro-batch after micro-batch. Parts of a short step may be uneven, down to none.
class BatchPlan {
 public:
  struct Options {
    int64_t global_batch = 1;
    int64_t world_size = 1;
    int64_t micro_batch = 1;
    int64_t epoch_samples = 0;  // a step ends with its epoch; 0: steps go on into the next
    int64_t run_samples = 0;    // where the run ends; 0: nowhere
  };

  // UsageError unless the global batch divides by world size × micro-batch.
  explicit BatchPlan(const Options& options);

  int64_t micro_batch() const { return options_.micro_batch; }
  // The step that begins at `position`; the next begins where it ends.
  Share step_at(int64_t position) const;
  Share part_of(const Share& step, int64_t rank) const;
  // Of the rank that has the largest part.
  int64_t micro_batches_of(const Share& step) const;
  // Steps from `position` to the end of the run, which must have one.
  int64_t steps_from(int64_t position) const;

 private:
  Options options_;
};

}  // namespace lockstep::data
