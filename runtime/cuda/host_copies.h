#pragma once

#include <cstddef>
#include <mutex>

#include "lockstep/runtime/cuda/driver.h"

namespace lockstep::cuda {

// Copies between arrays of the host and the device, in order on a stream. Large ones go through two
// pieces of pinned memory: one is filled or emptied by the host while the device reads or writes
// the other. Thread-safe.
class HostCopies {
 public:
  explicit HostCopies(Driver& driver) : driver_(driver) {}
  ~HostCopies();
  HostCopies(const HostCopies&) = delete;
  HostCopies& operator=(const HostCopies&) = delete;

  // Returns when `from` has been read; the device may be at work before it.
  void to_device(void* to, const void* from, size_t bytes, Stream stream);
  // Returns when `to` is filled.
  void to_host(void* to, const void* from, size_t bytes, Stream stream);

 private:
  struct Piece {
    char* data = nullptr;
    Event used = nullptr;  // behind the last copy that the device makes of it or to it
  };
  bool has_pieces();
  void copy(void* to, const void* from, size_t bytes, Piece& piece, Stream stream);
  void wait_for(Piece& piece);
  // In turns, over all calls.
  Piece& take_piece();

  Driver& driver_;
  std::mutex mutex_;  // guards all below
  bool refused_ = false;
  Piece pieces_[2];
  size_t next_ = 0;  // piece to be used
};

}  // namespace lockstep::cuda
