#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "lockstep/collectives/communicator.h"

namespace lockstep::testing {

using RankBody = std::function<void(Communicator&)>;

namespace internal {

// Who has ended, and the error that came first: those that follow are its echoes.
struct RankOutcome {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<bool> ended;
  std::exception_ptr first_error;

  bool all_ended() const {
    for (const bool each : ended) {
      if (!each) return false;
    }
    return true;
  }
};

inline void run_rank(Communicator& communicator, const RankBody& body, RankOutcome& outcome) {
  std::exception_ptr error;
  std::string reason;
  try {
    body(communicator);
  } catch (const std::exception& failure) {
    error = std::current_exception();
    reason = failure.what();
  }
  {
    const std::lock_guard lock(outcome.mutex);
    if (error != nullptr && outcome.first_error == nullptr) outcome.first_error = error;
    outcome.ended[static_cast<size_t>(communicator.rank())] = true;
    outcome.changed.notify_all();
  }
  if (error != nullptr) {
    communicator.abort("rank " + std::to_string(communicator.rank()) + " threw: " + reason);
  }
}

}  // namespace internal

// Runs `body` once for each of `size` ranks, each a thread of this process, and throws the first
// error of any. Ranks still running after `limit` are woken by abort and named in an Error; if that
// does not end them, the process ends.
inline void run_ranks(int size, const RankBody& body,
                      std::chrono::seconds limit = std::chrono::seconds(120)) {
  auto ranks = make_thread_group(size);
  internal::RankOutcome outcome;
  outcome.ended.resize(static_cast<size_t>(size), false);
  std::vector<std::thread> threads;
  for (auto& rank : ranks) {
    threads.emplace_back(
        [&, communicator = rank.get()] { internal::run_rank(*communicator, body, outcome); });
  }
  std::string hung;
  {
    std::unique_lock lock(outcome.mutex);
    const auto all_ended = [&] { return outcome.all_ended(); };
    if (!outcome.changed.wait_for(lock, limit, all_ended)) {
      for (int rank = 0; rank < size; ++rank) {
        if (!outcome.ended[static_cast<size_t>(rank)]) hung += " " + std::to_string(rank);
      }
      lock.unlock();
      ranks.front()->abort("the test ran longer than " + std::to_string(limit.count()) + " s");
      lock.lock();
      if (!outcome.changed.wait_for(lock, std::chrono::seconds(20), all_ended)) {
        std::fprintf(stderr, "rank threads hang:%s\n", hung.c_str());
        std::abort();
      }
    }
  }
  for (std::thread& thread : threads) thread.join();
  if (!hung.empty()) throw Error("rank threads did not end in time:" + hung);
  if (outcome.first_error != nullptr) std::rethrow_exception(outcome.first_error);
}

}  // namespace lockstep::testing
