#pragma once

#include <cstdint>

#include "lockstep/runtime/dtype.h"

namespace lockstep::mpi {

enum class Operation : uint8_t { sum, max, min };

// MPI as the plugin offers it, without MPI's types: blocking calls, all from the one thread that
// called init. Groups are small handles, 0 is MPI_COMM_WORLD. Calls return 0 or an MPI error code.
class Library {
 public:
  virtual bool initialized() = 0;  // ever, in this process
  virtual int init() = 0;          // once; the other calls come after it
  virtual int finalize() = 0;
  virtual int rank(int group) = 0;
  virtual int size(int group) = 0;

  // f64, f32, i64, i32, u8; in place.
  virtual int all_reduce(int group, void* values, int count, DType dtype, Operation operation) = 0;
  // `input` holds `count` values for each rank; apart from `output`.
  virtual int reduce_scatter(int group, const void* input, void* output, int count, DType dtype,
                             Operation operation) = 0;
  // The bytes of rank r arrive at output + r * stride. `input` may be this rank's place there.
  virtual int all_gather(int group, const void* input, void* output, int bytes, int64_t stride) = 0;
  // Each rank's `input` and `output` hold `bytes` for every rank; apart.
  virtual int all_to_all(int group, const void* input, void* output, int bytes) = 0;
  virtual int broadcast(int group, void* values, int bytes, int root) = 0;
  virtual int split(int group, int color, int key, int* part) = 0;
  virtual bool one_host(int group) = 0;  // whether all of the group's ranks share this host

  // One exchange with two neighbours at a time in each of the lanes: `post` begins it, `complete`
  // returns when `in` has come and `out` may be written to.
  static constexpr int kLanes = 2;
  struct Exchange {
    const void* out;
    int out_bytes;
    int to;
    void* in;
    int in_bytes;
    int from;
  };
  virtual int post(int lane, int group, const Exchange& exchange) = 0;
  virtual int complete(int lane) = 0;

  // Writes a message of at most `capacity` bytes, ended by 0.
  virtual void error_text(int code, char* text, int capacity) = 0;

 protected:
  ~Library() = default;  // the plugin's own, for as long as the process lives
};

// Its number changes with Library: a plugin of another version is not found in one.
inline constexpr const char* kLibraryFunction = "lockstep_mpi_library_2";
using LibraryFunction = Library* (*)();

}  // namespace lockstep::mpi
