// Passes that are captured while other threads work on the device.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <exception>
#include <thread>

#include "unit/cuda/captured_training.h"

namespace lockstep {
namespace {

using test::Training;

// Which brings arrays, computes with them, looks at what has come out, makes marks and has memory
// given back: done at once, and no part of the graph.
TEST(CapturedBesideThreads, AnotherThreadGoesOnMeanwhile) {
  Backend& backend = backend_of(test::device());
  Training captured(true), plain(false);
  Array sum = Array::full({1000}, 0, DType::f32, test::device());
  double expected = 0;
  captured.meanwhile = [&] {
    std::exception_ptr failure;
    std::thread other([&] {
      try {
        const Array one = test::on_device(Array::full({1000}, 1, DType::f32));
        sum = (Tensor(sum) + Tensor(one)).value();
        const std::unique_ptr<Mark> mark = backend.mark();
        ASSERT_NE(mark, nullptr);
        backend.trim();
        manual_seed(3);
        const Tensor some = dropout(Tensor(one), 0.5);
        EXPECT_THAT(test::on_host(some.value()).to_vector<double>(), testing::Contains(2));
        backend.synchronize();
        EXPECT_TRUE(backend.is_reached(*mark));
        EXPECT_EQ(test::on_host(sum).to_vector<double>(), std::vector<double>(1000, ++expected));
      } catch (...) {
        failure = std::current_exception();
      }
    });
    other.join();
    if (failure) std::rethrow_exception(failure);
  };
  EXPECT_EQ(captured.steps(12), plain.steps(12));
  EXPECT_EQ(captured.passes().refusal(), "");
  EXPECT_GE(captured.passes().replays(), 16);
  EXPECT_EQ(test::on_host(sum).to_vector<double>(), std::vector<double>(1000, expected));
}

// What graphs work in is shared by those of one thread.
TEST(CapturedBesideThreads, OfASecondThreadGoOnWithoutGraphs) {
  Training plain(false);
  const std::vector<double> expected = plain.steps(12);
  std::vector<double> losses;
  {
    Training captured(true);
    losses = captured.steps(6);
    std::thread([&] {
      Training other(true);
      EXPECT_EQ(other.steps(12), expected);
      EXPECT_EQ(other.passes().replays(), 0);
      EXPECT_THAT(other.passes().refusal(), testing::HasSubstr("another thread"));
    }).join();
    const std::vector<double> rest = captured.steps(6);
    losses.insert(losses.end(), rest.begin(), rest.end());
    EXPECT_GE(captured.passes().replays(), 16);
  }
  EXPECT_EQ(losses, expected);
  std::thread([&] {
    Training next(true);
    EXPECT_EQ(next.steps(12), expected);
    EXPECT_GE(next.passes().replays(), 16);
  }).join();
}

TEST(CapturedBesideThreads, TwoThreadsAtTheSameTime) {
  Training plain(false);
  const std::vector<double> expected = plain.steps(10);
  std::vector<std::vector<double>> losses(2);
  std::vector<std::thread> threads;
  for (std::vector<double>& own : losses) {
    threads.emplace_back([&own] { own = Training(true).steps(10); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(losses, testing::Each(expected));
}

TEST(CapturedBesideThreads, OneCaptureAtATimeOfAThread) {
  Backend& backend = backend_of(test::device());
  EXPECT_THROW(backend.end_capture(), Error);
  backend.abandon_capture();  // of nothing
  backend.begin_capture({});
  EXPECT_THROW(backend.begin_capture({}), Error);
  std::thread([&] {
    EXPECT_THROW(backend.end_capture(), Error);
    backend.abandon_capture();
  }).join();
  EXPECT_NE(backend.end_capture(), nullptr);
}

}  // namespace
}  // namespace lockstep
