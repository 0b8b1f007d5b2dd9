#include "lockstep/collectives/communicator.h"

#include <gtest/gtest.h>

#include <functional>
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
