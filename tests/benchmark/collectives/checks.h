#pragma once

#include <functional>
#include <string>
#include <vector>

#include "lockstep/collectives/communicator.h"

namespace lockstep::benchmark {

enum class Call { all_reduce, reduce_scatter, all_gather, broadcast };
const char* name_of(Call call);

// Where the arrays of a call lie.
enum class Place {
  plain,   // at the start of an allocation
  slice,   // in the middle of one, at an odd element
  bucket,  // in memory of Communicator::allocate_bucket
  host,    // on the host, of a communicator of devices
};
const char* name_of(Place place);

struct Case {
  Call call = Call::all_reduce;
  DType dtype = DType::f32;
  int64_t bytes = 4;  // of the whole, as nccl-tests counts: of all slices together
  Place place = Place::plain;
  bool in_place = true;  // reduce_scatter, all_gather
  ReduceOp reduction = ReduceOp::sum;
  int root = 0;  // broadcast

  std::string describe() const;
};

inline constexpr int64_t kMostHostBytes = 64 << 10;  // of calls of Place::host

// The memory of all calls, and the values that each rank gives and must find.
class Memory {
 public:
  // A collective call.
  Memory(Communicator& communicator, int64_t largest_bytes);

  struct Windows {
    Array input;   // what the call reads
    Array output;  // what it writes
    Array whole;   // the output with what is around it
    Array around;  // the same of the larger of the two
    int64_t lead = 0;
  };
  Windows windows(const Case& of, int ranks) const;
  // As long as `like`, for what should be there.
  Array expected(const Array& like) const;

 private:
  struct Pair {
    Array data, other;
  };
  Pair device_, bucket_;
  Pair host_;  // none where the communicator's device is the host
  Array expected_, expected_on_host_;
};

// Makes one call after another and holds what it finds against what must be there.
class Checks {
 public:
  Checks(Communicator& world, Memory& memory) : world_(world), memory_(memory) {}

  // On a part of the world, whose members' ranks of the world are `members`.
  void check(const Case& of, Communicator& communicator, const std::vector<int>& members);
  // On the world.
  void check(const Case& of);

  // Changes one value of the next result, for a test of these checks.
  void spoil_next() { spoil_ = true; }

  int64_t checked() const { return checked_; }
  int64_t wrong() const { return wrong_; }  // on this rank

 private:
  void compare(const Case& of, const Array& found, const std::function<double(int64_t)>& expected,
               double tolerance);

  Communicator& world_;
  Memory& memory_;
  int64_t checked_ = 0, wrong_ = 0;
  bool spoil_ = false;
};

int64_t total_elements(const Case& of, int ranks);
// Starts the call that `of` says.
Work start(const Case& of, Communicator& communicator, const Memory::Windows& windows);

}  // namespace lockstep::benchmark
