#include "lockstep/collectives/work.h"

#include <gtest/gtest.h>

#include <thread>

#include "lockstep/collectives/mpi/worker.h"
#include "lockstep/collectives/work_state.h"

namespace lockstep {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kTimeout{300};

// MPI of a world of one whose reductions take their time.
class SlowLibrary final : public mpi::Library {
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

}  // namespace
}  // namespace lockstep
