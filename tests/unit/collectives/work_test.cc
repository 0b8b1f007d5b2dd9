#include "lockstep/collectives/work.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <string>
#include <thread>

#include "lockstep/collectives/mpi/worker.h"
#include "lockstep/collectives/work_state.h"

namespace lockstep {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kTimeout{300};

// MPI of a world of one whose reductions take their time.
class SlowLibrary : public mpi::Library {
 public:
  explicit SlowLibrary(milliseconds each) : each_(each) {}

  bool initialized() override { return false; }
  int init() override { return 0; }
  int finalize() override { return 0; }
  int rank(int) override { return 0; }
  int size(int) override { return 1; }
  bool one_host(int) override { return true; }
  int post(int, int, const Exchange&) override { return 0; }
  int complete(int) override { return 0; }
  int all_reduce(int, void*, int count, DType, mpi::Operation) override {
    if (count > 2) std::this_thread::sleep_for(each_);  // not the agreement before it
    return 0;
  }
  int reduce_scatter(int, const void*, void*, int, DType, mpi::Operation) override { return 0; }
  int all_gather(int, const void*, void*, int, int64_t) override { return 0; }
  int all_to_all(int, const void*, void*, int) override { return 0; }
  int broadcast(int, void*, int, int) override { return 0; }
  int split(int, int, int, int*) override { return 0; }
  void error_text(int, char* text, int) override { *text = '\0'; }

 private:
  milliseconds each_;
};

std::shared_ptr<WorkState> all_reduce(mpi::Worker& worker, int64_t elements) {
  auto work = std::make_shared<WorkState>();
  work->collective = Collective::all_reduce;
  work->input = work->output = Array::zeros({elements}, DType::f32);
  work->dtype = DType::f32;
  work->elements = elements;
  work->timeout = kTimeout;
  worker.submit(0, work);
  return work;
}

TEST(DeadlineTest, ALongCollectiveThatAdvancesIsNotLate) {
  SlowLibrary library(kTimeout / 3);
  const auto worker = mpi::Worker::start(library);
  constexpr int64_t kPieces = 10, kElements = kPieces * (1 << 20) / 4;
  const auto start = std::chrono::steady_clock::now();
  const auto first = all_reduce(*worker, kElements);
  const auto second = all_reduce(*worker, 1000);  // waits in line all the time
  second->wait();
  first->wait();
  EXPECT_GE(std::chrono::steady_clock::now() - start, 3 * kTimeout);
  worker->close(kTimeout);
}

TEST(DeadlineTest, ACollectiveThatStandsStillIsLate) {
  SlowLibrary library(5 * kTimeout);
  const auto worker = mpi::Worker::start(library);
  const auto work = all_reduce(*worker, 1000);
  EXPECT_THROW(work->wait(), CollectiveError);
  std::this_thread::sleep_for(5 * kTimeout);  // the worker's thread uses the library
  worker->close(kTimeout);
}

// Whose ranks never all come to Init.
class WaitingLibrary final : public SlowLibrary {
 public:
  WaitingLibrary() : SlowLibrary(milliseconds(0)) {}
  int init() override {
    come_.get_future().wait();
    return 0;
  }
  int finalize() override {
    finalized_ = true;
    return 0;
  }
  void let_them_come() { come_.set_value(); }
  bool finalized() const { return finalized_; }

 private:
  std::promise<void> come_;
  std::atomic<bool> finalized_{false};
};

TEST(DeadlineTest, AStartWithoutARankEnds) {
  static WaitingLibrary library;  // the worker's thread uses it, whatever comes
  try {
    mpi::Worker::start(library, kTimeout);
    FAIL() << "MPI has started";
  } catch (const CollectiveError& error) {
    EXPECT_NE(std::string(error.what()).find("MPI has not started within 300 ms"),
              std::string::npos);
  }
  library.let_them_come();
  std::this_thread::sleep_for(kTimeout);
  EXPECT_FALSE(library.finalized());
}

TEST(DeadlineTest, AStartThatIsSlowIsWaitedFor) {
  WaitingLibrary library;
  std::thread late([&] {
    std::this_thread::sleep_for(kTimeout);
    library.let_them_come();
  });
  mpi::Worker::start(library, 100 * kTimeout)->close(kTimeout);
  late.join();
  EXPECT_TRUE(library.finalized());
}

}  // namespace
}  // namespace lockstep
