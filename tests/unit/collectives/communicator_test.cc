#include "lockstep/collectives/communicator.h"

#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>

#include "support/collective_checks.h"
#include "support/thread_ranks.h"

namespace lockstep::testing {
namespace {

void expect_error(const std::function<void()>& body, const std::vector<std::string>& parts) {
  try {
    body();
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    const std::string text = error.what();
    for (const std::string& part : parts) {
      EXPECT_NE(text.find(part), std::string::npos) << "'" << text << "' lacks '" << part << "'";
    }
  }
}

TEST(SingleCommunicator, EveryCollectiveIsExact) {
  const auto communicator = make_single_communicator();
  EXPECT_EQ(communicator->rank(), 0);
  EXPECT_EQ(communicator->size(), 1);
  EXPECT_EQ(communicator->backend(), "single");
  for (const DType dtype : kNumberTypes) {
    for (const int64_t elements : {0, 1, 1000}) check_collectives(*communicator, dtype, elements);
  }
  check_split(*communicator);
}

TEST(SingleCommunicator, FailsAfterAbort) {
  const auto communicator = make_single_communicator();
  communicator->abort("enough");
  EXPECT_THROW(communicator->barrier().wait(), CollectiveError);
}

TEST(Communicator, WrongArgumentsAreNamed) {
  const auto communicator = make_single_communicator();
  communicator->barrier().wait();
  const Array floats = Array::empty({4}, DType::f32);
  const Array integers = Array::empty({4}, DType::i32);
  const Array matrix = Array::empty({2, 3}, DType::f32);
  expect_error([&] { communicator->all_reduce(Array(), ReduceOp::sum); }, {"without storage"});
  expect_error(
      [&] {
        communicator->all_reduce(matrix.transpose(0, 1), ReduceOp::sum,
                                 {.what = "gradients", .bucket = 7});
      },
      {"all_reduce #2 \"gradients\", bucket 7, on rank 0 of 1", "[3, 2]", "not contiguous"});
  expect_error([&] { communicator->all_reduce(integers, ReduceOp::mean); }, {"mean", "i32"});
  expect_error([&] { communicator->all_reduce(Array::empty({1}, DType::boolean), ReduceOp::max); },
               {"bool"});
  expect_error([&] { communicator->all_gather(floats, integers); }, {"f32", "i32"});
  expect_error([&] { communicator->all_gather(floats, matrix); }, {"6 elements", "1 times the 4"});
  expect_error([&] { communicator->broadcast(floats, 1); }, {"root is 1", "expected 0 to 0"});
  const Array five = Array::empty({5}, DType::f32);
  expect_error(
      [&] {
        communicator->reduce_scatter(five.narrow(0, 0, 4), five.narrow(0, 1, 4), ReduceOp::sum);
      },
      {"overlaps", "slice 0"});
  EXPECT_EQ(communicator->collectives_started(), 1u);
}

TEST(Communicator, AWorkTellsItsTimeAndReleasesItsArrays) {
  const auto communicator = make_single_communicator();
  const Array values = Array::empty({1000}, DType::f32);
  const Work work = communicator->all_reduce(values, ReduceOp::sum);
  EXPECT_TRUE(work.done());
  EXPECT_GE(work.duration().count(), 0);
  EXPECT_TRUE(values.storage()->unique());
  EXPECT_TRUE(Work().done());
  Work().wait();
}

// What was known of the values before, and what has saved them, finds out.
TEST(Communicator, TheVersionOfWhatItWritesGrows) {
  const auto communicator = make_single_communicator();
  const Array read = Array::empty({4}, DType::i64);
  const std::vector<std::function<void(const Array&)>> calls{
      [&](const Array& x) { communicator->all_reduce(x, ReduceOp::sum).wait(); },
      [&](const Array& x) { communicator->broadcast(x, 0).wait(); },
      [&](const Array& x) { communicator->all_gather(read, x).wait(); },
      [&](const Array& x) { communicator->reduce_scatter(read, x, ReduceOp::sum).wait(); },
  };
  for (const auto& call : calls) {
    const std::vector<int64_t> before{1, 2, 3, 4};
    const Array written = Array::from(before, {4});
    written.know_extent(before);
    const uint64_t version = written.storage()->version();
    call(written);
    EXPECT_GT(written.storage()->version(), version);
    EXPECT_EQ(written.storage()->known_extent(), nullptr);
  }
  EXPECT_EQ(read.storage()->version(), 0u);
}

TEST(Communicator, TheHistoryIsOfAllThatRanksMustDoAlike) {
  using Call = std::function<void(Communicator&)>;
  const Array four = Array::zeros({4}, DType::f32), five = Array::zeros({5}, DType::f32);
  const Array other = Array::zeros({4}, DType::i32);
  const std::vector<Call> calls{
      [](Communicator& c) { c.barrier(); },
      [](Communicator& c) { c.barrier({.what = "a"}); },
      [](Communicator& c) { c.barrier({.what = "b"}); },
      [](Communicator& c) { c.barrier({.what = "b", .bucket = 1}); },
      [&](Communicator& c) { c.all_reduce(four, ReduceOp::sum); },
      [&](Communicator& c) { c.all_reduce(four, ReduceOp::max); },
      [&](Communicator& c) { c.all_reduce(five, ReduceOp::sum); },
      [&](Communicator& c) { c.all_reduce(other, ReduceOp::sum); },
      [&](Communicator& c) { c.broadcast(four, 0); },
  };
  const auto history = [](const std::vector<Call>& made) {
    const auto communicator = make_single_communicator();
    for (const Call& call : made) call(*communicator);
    return communicator->history();
  };
  std::set<uint64_t> histories{history({}), history({calls[4], calls[5]}),
                               history({calls[5], calls[4]})};
  for (const Call& call : calls) histories.insert(history({call}));
  EXPECT_EQ(histories.size(), calls.size() + 3);
  EXPECT_EQ(history(calls), history(calls));
}

TEST(Communicator, BucketMemoryIsItsOwn) {
  const auto communicator = make_single_communicator();
  const Array bucket = communicator->allocate_bucket(100, DType::f32);
  EXPECT_EQ(bucket.elements(), 100);
  EXPECT_EQ(bucket.dtype(), DType::f32);
}

TEST(Text, GathersTextsOfAllLengths) {
  run_ranks(3, [](Communicator& communicator) {
    const std::string mine(static_cast<size_t>(communicator.rank() * 5), 'x');
    const auto all = all_gather_text(communicator, mine, "names");
    EXPECT_EQ(all, (std::vector<std::string>{"", "xxxxx", "xxxxxxxxxx"}));
    EXPECT_EQ(all_gather_text(communicator, "", "nothing"), std::vector<std::string>(3));
    EXPECT_EQ(broadcast_text(communicator, mine, 2, "name"), "xxxxxxxxxx");
    EXPECT_EQ(broadcast_text(communicator, mine, 0, "name"), "");
  });
}

}  // namespace
}  // namespace lockstep::testing
