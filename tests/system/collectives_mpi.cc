// The MPI transport, under a launcher. mpirun -n 1..4 collectives_mpi checks every collective.
// With --late (2 to 4 ranks) the last rank comes too late: the others say so within the deadline
// ("late rank reported") and end without help. With --mismatch the last rank reduces a longer array
// ("mismatch reported" on every rank). With --absent the last rank stops before MPI's start
// ("absent rank reported" on the others). With --abort every rank aborts ("abort reported").
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <string>
#include <string_view>
#include <thread>

#include "lockstep/collectives/flight_recorder.h"
#include "lockstep/collectives/work_state.h"
#include "lockstep/collectives/world.h"
#include "support/collective_checks.h"

namespace lockstep::testing {
namespace {

using std::chrono::milliseconds;

void check_texts(Communicator& communicator) {
  const auto texts =
      all_gather_text(communicator, std::string(static_cast<size_t>(communicator.rank()), 'r'), "");
  for (size_t rank = 0; rank < texts.size(); ++rank) {
    LOCKSTEP_CHECK(texts[rank] == std::string(rank, 'r'), "text of rank ", rank);
  }
  const int root = communicator.size() - 1;
  const std::string word = communicator.rank() == root ? "lockstep" : "";
  LOCKSTEP_CHECK(broadcast_text(communicator, word, root, "word") == "lockstep", "broadcast text");
}

void check_idle_costs_nothing() {
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(milliseconds(300));
  const double seconds = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
  LOCKSTEP_CHECK(seconds < 0.1, "an idle communicator used ", seconds, " s of CPU in 0.3 s");
}

void check_one_per_process() {
  try {
    make_mpi_communicator();
  } catch (const Error&) {
    return;
  }
  fail({"a second MPI communicator was made"});
}

// What the transport starts by itself is watched like any other collective.
void check_bucket_memory_may_take_long(Communicator& communicator) {
  const milliseconds before = communicator.timeout();
  std::atomic<int> asked{0};
  communicator.set_late_handler([&](const WorkState&) {
    ++asked;
    return std::optional<std::string>();  // to be waited for
  });
  communicator.set_timeout(milliseconds(100));
  const bool slow = communicator.rank() == communicator.size() - 1;
  if (slow) std::this_thread::sleep_for(milliseconds(500));
  communicator.allocate_bucket(1000, DType::f32);
  communicator.set_late_handler({});
  communicator.set_timeout(before);
  if (communicator.size() == 1) return;
  LOCKSTEP_CHECK(slow || asked > 0, "nobody was asked for a rank that is late");
  const auto last = communicator.recorder()->last("world");
  LOCKSTEP_CHECK(
      last->what == "bucket memory" && last->sequence == communicator.collectives_started(),
      "the last collective is #", last->sequence, " ", last->what);
}

void run_abort(std::unique_ptr<Communicator> communicator) {
  communicator->barrier().wait();
  communicator->abort("enough");
  try {
    communicator->barrier().wait();
  } catch (const CollectiveError& error) {
    communicator.reset();
    std::printf("abort reported: %s\n", error.what());
    return;
  }
  fail({"a collective after abort ended well"});
}

void run_checks(Communicator& communicator) {
  for (const DType dtype : kNumberTypes) {
    for (const int64_t elements : {0, 1, 3, 1000, 300'001}) {
      check_collectives(communicator, dtype, elements);
    }
  }
  check_all_reduce<float>(communicator, (32 << 20) / 4, ReduceOp::sum);
  check_reduce_scatter<float>(communicator, 3'000'001, ReduceOp::mean);
  check_all_gather<double>(communicator, 1'000'001);
  check_in_flight(communicator, 30, 10'000);
  check_split(communicator);
  check_texts(communicator);
  check_idle_costs_nothing();
  check_one_per_process();
  check_bucket_memory_may_take_long(communicator);
  communicator.barrier({.what = "end"}).wait();
  if (communicator.rank() == 0) {
    std::printf("collectives_mpi: all checks passed on %d ranks\n", communicator.size());
  }
}

void check_late_message(const std::string& text, const Communicator& communicator) {
  const std::string expected =
      "all_reduce #2 \"gradients\", bucket 3, on rank " + std::to_string(communicator.rank()) +
      " of " + std::to_string(communicator.size()) + ": no progress for 500 ms in all_reduce #2";
  LOCKSTEP_CHECK(text.starts_with(expected), "'", text, "' does not start with '", expected, "'");
}

void run_late(std::unique_ptr<Communicator> communicator) {
  communicator->barrier().wait();
  communicator->set_timeout(milliseconds(500));
  if (communicator->rank() == communicator->size() - 1) {
    std::this_thread::sleep_for(std::chrono::seconds(5));
    return;
  }
  const auto begin = std::chrono::steady_clock::now();
  const Array values = Array::empty({1 << 20}, DType::f32);
  std::fill_n(values.data<float>(), values.elements(), 1.0f);
  const Work late =
      communicator->all_reduce(values, ReduceOp::sum, {.what = "gradients", .bucket = 3});
  const Work after = communicator->barrier();
  std::string error;
  try {
    late.wait();
  } catch (const CollectiveError& failure) {
    error = failure.what();
  }
  check_late_message(error, *communicator);
  try {
    after.wait();
    fail({"a collective behind a late one ended well"});
  } catch (const CollectiveError&) {
  }
  communicator.reset();
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
  LOCKSTEP_CHECK(taken.count() < 2.5, "the late rank was reported after ", taken.count(), " s");
  std::printf("late rank reported: %s\n", error.c_str());
}

void run_mismatch(std::unique_ptr<Communicator> communicator) {
  const int last = communicator->size() - 1;
  const Array values = Array::empty({communicator->rank() == last ? 20'000 : 10}, DType::f32);
  try {
    communicator->all_reduce(values, ReduceOp::sum, {.what = "gradients"}).wait();
  } catch (const CollectiveError& error) {
    const std::string expected = "rank 0 all_reduce(sum) of 10 f32 as #1 \"gradients\"; rank " +
                                 std::to_string(last) +
                                 " all_reduce(sum) of 20000 f32 as #1 \"gradients\"";
    LOCKSTEP_CHECK(std::string_view(error.what()).ends_with(expected), "'", error.what(),
                   "' does not end with '", expected, "'");
    communicator.reset();
    std::printf("mismatch reported: %s\n", error.what());
    return;
  }
  fail({"arrays of different lengths were reduced"});
}

void run_absent() {
  const World world = World::from_env();
  if (world.rank == world.size - 1) {
    raise(SIGSTOP);
    fail({"the job has ended"});  // mpirun lets it go on before it ends it
  }
  try {
    make_mpi_communicator(milliseconds(1000));
  } catch (const CollectiveError& error) {
    std::printf("absent rank reported: %s\n", error.what());
    std::fflush(stdout);
    std::this_thread::sleep_for(milliseconds(3000));  // mpirun ends the job with the first
    throw;
  }
  fail({"MPI has started without a rank"});
}

int run(std::string_view mode) {
  try {
    if (mode == "--absent") return run_absent(), 0;
    auto communicator = World::from_env().size == 1 ? make_mpi_communicator()
                                                    : make_communicator(World::from_env());
    if (mode == "--late") {
      run_late(std::move(communicator));
    } else if (mode == "--mismatch") {
      run_mismatch(std::move(communicator));
    } else if (mode == "--abort") {
      run_abort(std::move(communicator));
    } else {
      run_checks(*communicator);
    }
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "collectives_mpi: %s\n", error.what());
    return 1;
  }
}

}  // namespace
}  // namespace lockstep::testing

int main(int argc, char** argv) {
  const std::string_view mode = argc > 1 ? argv[1] : "";
  const int code = lockstep::testing::run(mode);
  std::fflush(nullptr);
  // A thread may still be inside MPI.
  if (!mode.empty() || code != 0) _exit(code);
  return code;
}
