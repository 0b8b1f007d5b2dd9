#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "lockstep/collectives/watch/watch.h"
#include "lockstep/collectives/world.h"

namespace lockstep {
class TcpStoreServer;
}

namespace lockstep::train {

// Where the other ranks find a store that this one hosts. `lookup` is getenv.
std::string own_address(const World& world, const std::function<const char*(const char*)>& lookup);

// Watches over a rank for as long as its job runs. The store that the ranks meet in is the one that
// LOCKSTEP_STORE (host:port) and LOCKSTEP_STORE_TOKEN name on rank 0, or one that it hosts. A world
// of one has nobody to wait for, and no watch.
class JobWatch {
 public:
  struct Options {
    std::chrono::milliseconds timeout;       // of collectives: how often ranks beat follows from it
    std::filesystem::path flight_directory;  // empty: nothing is written
    // Ends the process; called with the reason when a rank does not end by itself.
    std::function<void(const std::string& report)> end_process;
  };
  // A collective call. All ranks have left before rank 0's ends.
  JobWatch(Communicator& communicator, const World& world, Options options);
  ~JobWatch();

  // This rank has come to its end and watches no more; rank 0's host stays.
  void leave() { watch_.reset(); }

  // This rank fails: writes what its last collectives were, and tells the others. Never throws.
  void fail(const std::string& reason);
  // To flight-rank-N.json and, for chrome://tracing, flight-rank-N.trace.json; once. Thread-safe.
  void write_flight();

 private:
  void write(const std::string& name, const std::string& text) const;

  Communicator& communicator_;
  Options options_;
  std::unique_ptr<TcpStoreServer> host_;  // on rank 0
  std::unique_ptr<Watch> watch_;
  std::once_flag flight_written_;
};

}  // namespace lockstep::train
