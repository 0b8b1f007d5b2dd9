#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "lockstep/collectives/nccl/communicator.h"
#include "lockstep/collectives/nccl/meeting.h"
#include "support/fake_nccl.h"

// Ranks as threads that talk through the NCCL transport over a fake NCCL.
namespace lockstep::testing {

using std::chrono::milliseconds;

inline constexpr milliseconds kPlenty{60000};
inline constexpr milliseconds kDeadline{300};
inline constexpr Device kGpu{DeviceKind::cuda, 0};

struct Rank {
  Communicator& communicator;
  FakeNccl& library;
  Store& store;
};
struct Ranks {
  int size = 2;
  Device device = {};
  milliseconds timeout = kPlenty;
  int missing = -1;  // a rank that never comes
  // A rank that meets the others, and then comes no further.
  int dies_after_meeting = -1;
};

// What each rank's thread ended with: "well", or its error.
inline std::vector<std::string> run_nccl_ranks(FakeNetwork& network, const Ranks& ranks,
                                               const std::function<void(const Rank&)>& body) {
  std::vector<std::string> ends(static_cast<size_t>(ranks.size));
  MemoryStore memory;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks.size; ++rank) {
    threads.emplace_back([&, rank] {
      std::string& end = ends[static_cast<size_t>(rank)];
      FakeNccl library(network, rank);
      const auto store = memory.connect();
      const nccl::Place place{.rank = rank, .size = ranks.size, .device = ranks.device};
      try {
        if (rank == ranks.missing) return;
        if (rank == ranks.dies_after_meeting) {
          nccl::meet(
              *store, rank, ranks.size, [] { return nccl::UniqueId(); }, ranks.timeout);
          return;
        }
        const auto communicator = nccl::make_communicator(library, *store, place, ranks.timeout);
        body({*communicator, library, *store});
        end = "well";
      } catch (const std::exception& error) {
        end = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return ends;
}

inline std::vector<std::string> run_nccl_ranks(const Ranks& ranks,
                                               const std::function<void(const Rank&)>& body) {
  FakeNetwork network;
  return run_nccl_ranks(network, ranks, body);
}

// Memory of the host under a device's name.
inline Array on_gpu(const Array& host) {
  const Ref<Storage> storage = Storage::adopt(kGpu, host.data(), host.bytes(), [host] {});
  return Array(storage, host.dtype(), host.shape(), host.strides(), 0);
}

inline void sleep(milliseconds time) { std::this_thread::sleep_for(time); }

}  // namespace lockstep::testing
