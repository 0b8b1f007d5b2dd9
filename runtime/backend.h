#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "lockstep/runtime/device.h"
#include "lockstep/runtime/error.h"

namespace lockstep {

class Kernels;
struct RandomKey;

struct MemoryStatistics {
  int64_t in_use_bytes = 0;  // held by live storages
  int64_t peak_in_use_bytes = 0;
  int64_t reserved_bytes = 0;  // taken from the system: in use and cached
  int64_t peak_reserved_bytes = 0;
  int64_t limit_bytes = 0;         // 0: none
  int64_t allocations = 0;         // requests, since start
  int64_t system_allocations = 0;  // of them, those that the cache could not serve
};

// Thrown when memory in use would exceed the limit, or the system has no more.
class OutOfMemory : public Error {
 public:
  using Error::Error;
};

// Thrown while work is captured, by what cannot be: the host would wait for the device, or bring it
// data.
class NotCapturable : public Error {
 public:
  using Error::Error;
};

// Work that was written down and is queued again as a whole (a CUDA graph), with the memory in
// which it works.
class Capture {
 public:
  virtual ~Capture() = default;
  // `now` is the key where the pass begins, of the captured pass's seed.
  virtual void replay(const RandomKey& now) = 0;
};

// A place in the work of a device: reached when all that was queued before it is done.
class Mark {
 public:
  virtual ~Mark() = default;
  // As the device's library calls it; null: it has none.
  virtual void* event() const { return nullptr; }
};

// One kind of device: its memory and its kernels. Thread-safe.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual Device device() const = 0;
  virtual Kernels& kernels() = 0;

  // What it is, for logs: "NVIDIA H100 80GB HBM3, compute capability 9.0".
  virtual std::string description() const = 0;

  // 64-byte aligned, not initialised. `holder`, of static duration, names who will hold it (an op);
  // null: nobody says. Throws OutOfMemory naming the holder, the size, what is in use and the
  // limit.
  virtual void* allocate(size_t bytes, const char* holder) = 0;
  virtual void deallocate(void* data, size_t bytes) = 0;
  // Memory that somebody brings counts as in use here too, and against the limit (OutOfMemory);
  // negative when it goes.
  virtual void account(int64_t bytes) = 0;
  // Gives cached memory back to the system, but nothing of what was reserved.
  virtual void trim() = 0;
  virtual void set_limit(int64_t bytes) = 0;
  // Takes so much from the system at once, for requests of any size to be cut from: it counts as
  // reserved and against the limit, and stays with this process. Calls add up. Throws OutOfMemory
  // where the limit or the system does not allow it; and Error on the CPU, whose system hands out
  // memory when it is written to, so that nothing can be claimed.
  virtual void reserve(int64_t bytes) {
    (void)bytes;
    throw Error("memory of the CPU cannot be reserved");
  }
  virtual MemoryStatistics statistics() const = 0;

  virtual void copy_from_host(void* to, const void* from, size_t bytes) = 0;
  virtual void copy_to_host(void* to, const void* from, size_t bytes) = 0;
  // Waits for everything this thread has queued on the device.
  virtual void synchronize() = 0;
  // The stream on which kernels are queued, as the device's library calls it; null on the CPU.
  virtual void* stream() { return nullptr; }

  // A place behind everything this thread has queued so far. Null where work is done when it is
  // asked for, as on the CPU, and while it is written down for later.
  virtual std::unique_ptr<Mark> mark() { return nullptr; }
  // While work is written down: a place in it, which is reached anew by each replay. What waits for
  // it waits for the replay that was begun last. Null: there is none.
  virtual std::unique_ptr<Mark> mark_in_capture() { return nullptr; }
  virtual bool is_reached(const Mark& mark) {
    (void)mark;
    return true;
  }
  // The device's time from one of its marks to a later one, both reached.
  virtual double seconds_between(const Mark& from, const Mark& to) {
    (void)from, (void)to;
    return 0;
  }

  // Until end_capture() this thread's work is written down and not done, and memory that it asks
  // for is the capture's: it is handed out to nobody else while the capture lives, but what of it
  // was given back is written to by every replay. Other threads' work goes on meanwhile. `key` is
  // that of the pass. Throws NotCapturable on a device that has no such thing, and where another
  // thread's captures live; and so do both when something was asked for meanwhile that cannot be
  // written down; then nothing has been done.
  virtual void begin_capture(const RandomKey& key) {
    (void)key;
    throw NotCapturable("work of the CPU cannot be captured");
  }
  virtual std::unique_ptr<Capture> end_capture() { return nullptr; }
  // Instead of end_capture(), after an error.
  virtual void abandon_capture() {}
  // Called, before this thread is told that memory has run out, for `who` to let captures go; true:
  // it has. Empty: no more.
  virtual void on_shortage(const void* who, std::function<bool()> let_captures_go) {
    (void)who;
    (void)let_captures_go;
  }
};

// The backend of a device; one per process and device, opened on first need. Throws Error when the
// device's library or the device itself is missing.
Backend& backend_of(Device device);

// How many devices of CUDA this process sees. Throws Error where the device's library is missing.
int visible_gpus();

// Whether this machine seems to have a GPU, so that its library is worth opening.
bool has_gpu();

}  // namespace lockstep
