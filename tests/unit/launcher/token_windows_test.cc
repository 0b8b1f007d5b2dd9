#include "lockstep/launcher/data/token_windows.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>

#include "lockstep/runtime/error.h"
#include "support/temporary_directory.h"

namespace lockstep::data {
namespace {

using Values = std::vector<int64_t>;

// Bytes 0, 1, 2, …: a token tells its place.
TokenSource counting_source(int64_t count) {
  const lockstep::testing::TemporaryDirectory directory;
  std::string bytes;
  for (int64_t i = 0; i < count; ++i) bytes.push_back(static_cast<char>(i));
  std::ofstream(directory / "text", std::ios::binary) << bytes;
  return TokenSource::open(directory / "text", *make_tokenizer("bytes"));
}

struct Batch {
  Values inputs;
  Values targets;
};

Batch read(const TokenWindows& windows, int64_t first_position, int64_t samples, int64_t context) {
  Batch batch{Values(samples * context), Values(samples * context)};
  windows.read(first_position, batch.inputs, batch.targets);
  return batch;
}

TEST(TokenWindows, SequentialOrderWrapsAtTheEndOfTheData) {
  const TokenWindows windows(counting_source(10), {.context = 4, .order = Order::sequential});
  const Batch batch = read(windows, 1, 3, 4);
  EXPECT_EQ(batch.inputs, (Values{4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(batch.targets, (Values{5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6}));
}

TEST(TokenWindows, SequentialTargetWrapsToo) {
  const TokenWindows windows(counting_source(8), {.context = 4, .order = Order::sequential});
  const Batch batch = read(windows, 1, 1, 4);
  EXPECT_EQ(batch.inputs, (Values{4, 5, 6, 7}));
  EXPECT_EQ(batch.targets, (Values{5, 6, 7, 0}));
}

TEST(TokenWindows, EpochTakesEveryWholeWindowOnce) {
  for (const auto& [tokens, expected] : {std::pair{12, 2}, std::pair{13, 3}, std::pair{16, 3}}) {
    const TokenWindows windows(counting_source(tokens), {.context = 4, .seed = 9});
    ASSERT_EQ(windows.count(), expected);
    for (int64_t epoch = 0; epoch < 5; ++epoch) {
      std::set<int64_t> firsts;
      for (int64_t i = 0; i < expected; ++i) {
        const Batch batch = read(windows, epoch * expected + i, 1, 4);
        const int64_t first = batch.inputs[0];
        EXPECT_EQ(first % 4, 0);
        EXPECT_EQ(batch.inputs, (Values{first, first + 1, first + 2, first + 3}));
        EXPECT_EQ(batch.targets, (Values{first + 1, first + 2, first + 3, first + 4}));
        firsts.insert(first);
      }
      EXPECT_EQ(static_cast<int64_t>(firsts.size()), expected);
    }
  }
}

TEST(TokenWindows, RanksTogetherReadWhatOneReads) {
  const TokenWindows windows(counting_source(200), {.context = 3, .seed = 4});
  constexpr int64_t kBatch = 12;
  const Batch whole = read(windows, 7 * kBatch, kBatch, 3);
  for (const int64_t world : {2, 3, 4}) {
    const BatchPlan plan({.global_batch = kBatch, .world_size = world, .micro_batch = 1});
    Values inputs;
    for (int64_t rank = 0; rank < world; ++rank) {
      const Share part = plan.part_of(plan.step_at(7 * kBatch), rank);
      const Batch batch = read(windows, part.first, part.count, 3);
      inputs.insert(inputs.end(), batch.inputs.begin(), batch.inputs.end());
    }
    EXPECT_EQ(inputs, whole.inputs);
  }
}

TEST(TokenWindows, RefusesWhatDoesNotFit) {
  EXPECT_THROW(TokenWindows(counting_source(4), {.context = 4}), UsageError);
  EXPECT_THROW(TokenWindows(counting_source(4), {.context = 0}), UsageError);
  const TokenWindows windows(counting_source(5), {.context = 4});
  Values six(6);
  Values four(4);
  EXPECT_THROW(windows.read(0, six, six), Error);
  EXPECT_THROW(windows.read(0, four, six), Error);
}

}  // namespace
}  // namespace lockstep::data
