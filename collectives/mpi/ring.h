#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "lockstep/collectives/mpi/library.h"
#include "lockstep/runtime/reduce_op.h"

namespace lockstep::mpi {

// All-reduce around a ring (Patarasuk and Yuan 2009): each rank sends and receives 2 (n - 1) / n of
// the bytes, the least there can be. Two pieces are under way, so that one is added up while the
// other travels; a mean is taken of each rank's slice alone. Between hosts this is up to three
// times as fast as Open MPI 4.1's choice, within one about as fast.
class Ring {
 public:
  explicit Ring(Library& library) : library_(library) {}

  // Whether it is worth its many messages.
  bool suits(int group, int64_t bytes);

  // f64, f32, i64, i32, u8; in place. Calls `advanced` after each exchange, and stops early when
  // that returns false. `check` gets what MPI calls return.
  void all_reduce(int group, char* values, int64_t elements, DType dtype, ReduceOp reduction,
                  const std::function<void(int code)>& check,
                  const std::function<bool()>& advanced);

 private:
  struct Slice {
    char* data;
    int64_t elements;
  };
  // What a lane works on, cut into one slice for each rank.
  struct Piece {
    char* data = nullptr;
    int64_t elements = 0;
    std::vector<std::byte> received;
  };
  Slice slice_of(const Piece& piece, int index) const;
  int post(int lane, int step);
  void add(int lane, int step);

  Library& library_;
  Piece pieces_[Library::kLanes];
  int group_ = 0;
  int rank_ = 0;
  int size_ = 1;
  DType dtype_ = DType::f32;
  ReduceOp reduction_ = ReduceOp::sum;
};

}  // namespace lockstep::mpi
