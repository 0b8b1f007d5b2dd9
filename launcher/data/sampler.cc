#include "lockstep/launcher/data/sampler.h"

#include <algorithm>
#include <bit>

#include "lockstep/runtime/error.h"
#include "lockstep/runtime/random/philox.h"

namespace lockstep::data {
namespace {

constexpr int kRounds = 8;
// Keeps the order apart from whatever else draws from Philox with the run's seed.
constexpr uint64_t kSamplerKey = 0x73616D706C657273;

}  // namespace

Permutation::Permutation(int64_t count, uint64_t seed, int64_t epoch)
    : count_(static_cast<uint64_t>(count)),
      key_(seed ^ kSamplerKey),
      epoch_(static_cast<uint64_t>(epoch)) {
  LOCKSTEP_CHECK(count > 0 && epoch >= 0, "permutation: expected a positive count, found ", count,
                 " in epoch ", epoch);
  const int bits = std::bit_width(count_ - 1);
  half_bits_ = bits < 2 ? 1 : (bits + 1) / 2;
}

int64_t Permutation::operator()(int64_t index) const {
  auto value = static_cast<uint64_t>(index);
  LOCKSTEP_CHECK(value < count_, "permutation: index ", index, " is not in [0, ", count_, ")");
  do {
    value = encrypt(value);
  } while (value >= count_);
  return static_cast<int64_t>(value);
}

uint64_t Permutation::encrypt(uint64_t value) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t left = value >> half_bits_;
  uint64_t right = value & mask;
  for (uint32_t round = 0; round < kRounds; ++round) {
    // A half has at most 32 bits.
    const philox::Block random =
        philox::block({{static_cast<uint32_t>(right), round, static_cast<uint32_t>(epoch_),
                        static_cast<uint32_t>(epoch_ >> 32)}},
                      key_);
    const uint64_t next = left ^ (random.words[0] & mask);
    left = right;
    right = next;
  }
  return left << half_bits_ | right;
}

Sampler::Sampler(int64_t count, uint64_t seed) : count_(count), seed_(seed) {
  LOCKSTEP_CHECK(count > 0, "sampler: expected at least one sample, found ", count);
}

int64_t Sampler::at(int64_t position) const {
  return Permutation(count_, seed_, position / count_)(position % count_);
}

BatchPlan::BatchPlan(const Options& options) : options_(options) {
  const auto& [global_batch, world_size, micro_batch, epoch, run] = options;
  if (global_batch < 1 || world_size < 1 || micro_batch < 1) {
    fail_usage({"global batch, ranks and micro-batch must be positive, found ", global_batch, ", ",
                world_size, " and ", micro_batch});
  }
  if (global_batch < world_size) {
    fail_usage({"--global-batch ", global_batch, " is smaller than the ", world_size,
                " ranks: every rank needs a sample of each step"});
  }
  if (global_batch % world_size != 0) {
    fail_usage({"--global-batch ", global_batch, " does not divide by ", world_size, " ranks"});
  }
  if (global_batch % (world_size * micro_batch) != 0) {
    fail_usage({"--global-batch ", global_batch, " does not divide by ", world_size,
                " ranks x --micro-batch ", micro_batch});
  }
}

Share BatchPlan::step_at(int64_t position) const {
  const auto& [global_batch, world_size, micro_batch, epoch, run] = options_;
  int64_t count = global_batch;
  if (epoch > 0) count = std::min(count, epoch - position % epoch);
  if (run > 0) count = std::min(count, std::max<int64_t>(0, run - position));
  return {position, count};
}

Share BatchPlan::part_of(const Share& step, int64_t rank) const {
  LOCKSTEP_CHECK(rank >= 0 && rank < options_.world_size, "batch plan: rank ", rank, " of ",
                 options_.world_size);
  const int64_t begin = step.count * rank / options_.world_size;
  const int64_t end = step.count * (rank + 1) / options_.world_size;
  return {step.first + begin, end - begin};
}

int64_t BatchPlan::micro_batches_of(const Share& step) const {
  const int64_t samples = options_.world_size * options_.micro_batch;
  return (step.count + samples - 1) / samples;
}

int64_t BatchPlan::steps_from(int64_t position) const {
  const auto& [global_batch, world_size, micro_batch, epoch, run] = options_;
  LOCKSTEP_CHECK(run > 0, "batch plan: the run has no end");
  const auto steps = [batch = global_batch](int64_t samples) {
    return (samples + batch - 1) / batch;
  };
  const int64_t left = std::max<int64_t>(0, run - position);
  if (epoch == 0) return steps(left);
  const int64_t first = std::min(left, (epoch - position % epoch) % epoch);  // to the epoch's end
  return steps(first) + (left - first) / epoch * steps(epoch) + steps((left - first) % epoch);
}

}  // namespace lockstep::data
