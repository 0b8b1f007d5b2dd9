#pragma once

#include <cstddef>
#include <cstdint>

#include "lockstep/runtime/dtype.h"
#include "lockstep/runtime/reduce_op.h"

namespace lockstep::nccl {

// Names a world whose ranks are about to meet; one rank makes it, the others get a copy.
struct UniqueId {
  char bytes[128] = {};
};

using Stream = void*;
using Event = void*;

// NCCL and what it needs of CUDA as the CUDA library offers them, without their types: of one
// device, with a stream of its own, of high priority, on which all communication is queued. Calls
// return 0, kInProgress or an error code, and never wait for another rank. Those that take a group
// come from one thread; the others are thread-safe. Groups are small handles, 0 is the world.
class Library {
 public:
  // A call on a group goes on in the background: `state` tells when it is over, and until then the
  // group must not be used but for `state` and `abort`.
  static constexpr int kInProgress = -1;

  virtual int make_unique_id(UniqueId* id) = 0;
  // Group 0; once.
  virtual int init(const UniqueId& id, int rank, int size) = 0;
  // 0 once the last call on `group` has succeeded, if nothing else has gone wrong meanwhile.
  virtual int state(int group) = 0;
  // Among the ranks of the same color, in the order of `key`. `part` is a group at once, in
  // progress until `group` and it are not any more.
  virtual int split(int group, int color, int key, int* part) = 0;
  // Ends what the device is doing in the group, and the group.
  virtual int abort(int group) = 0;
  // Of a group without work under way, by all of its ranks: `finalize`, in progress, then
  // `destroy`.
  virtual int finalize(int group) = 0;
  virtual int destroy(int group) = 0;

  // Queued on `stream()`. Counts are of elements of one rank's part. In place: `output` of
  // reduce_scatter (`input` of all_gather) may be this rank's part of the other one.
  virtual int all_reduce(int group, void* values, int64_t count, DType dtype,
                         ReduceOp reduction) = 0;
  virtual int reduce_scatter(int group, const void* input, void* output, int64_t count, DType dtype,
                             ReduceOp reduction) = 0;
  virtual int all_gather(int group, const void* input, void* output, int64_t count,
                         DType dtype) = 0;
  virtual int broadcast(int group, void* values, int64_t count, DType dtype, int root) = 0;

  // Memory of the device that NCCL reduces best in, and its registration with a group.
  virtual int allocate(size_t bytes, void** data) = 0;
  virtual int free(void* data) = 0;
  virtual int enroll(int group, void* data, size_t bytes, void** registration) = 0;
  virtual int withdraw(int group, void* registration) = 0;

  // Where the values of the host pass through: page-locked there, plain on the device. For as long
  // as the process lives.
  virtual int allocate_staging(size_t bytes, void** host, void** device) = 0;
  // Between the two, queued on `stream()`.
  virtual int copy(void* to, const void* from, size_t bytes) = 0;

  virtual Stream stream() = 0;
  // For as long as the process lives. Not recorded yet, it is done.
  virtual int make_event(Event* event) = 0;
  // When what is queued on `stream` so far is done, the event is.
  virtual int record(Event event, Stream stream) = 0;
  // What is queued on `stream` from now on waits for what `event` recorded last.
  virtual int wait(Stream stream, Event event) = 0;
  virtual int query(Event event, bool* done) = 0;
  // Of two that are done.
  virtual int elapsed(Event from, Event to, float* milliseconds) = 0;

  // Writes a message of at most `capacity` bytes, ended by 0. `group` says more where it is one.
  virtual void error_text(int code, int group, char* text, int capacity) = 0;

 protected:
  ~Library() = default;  // the CUDA library's own, for as long as the process lives
};

// Its number changes with Library: a CUDA library of another version is not found to have one.
// `device` is the number of a CUDA device; null where it cannot be used, and then `error` says why.
inline constexpr const char* kLibraryFunction = "lockstep_nccl_library_1";
using LibraryFunction = Library* (*)(int device, char* error, int capacity);

}  // namespace lockstep::nccl
