#include "lockstep/collectives/mpi/ring.h"

#include <algorithm>

#include "lockstep/collectives/reduce_cpu.h"

namespace lockstep::mpi {
namespace {

// Shorter messages cost more time under way than on the wire.
constexpr int64_t kLeastSliceBytes = 1 << 14;
constexpr int64_t kSliceBytes = 1 << 19;  // goes over TCP without a handshake

}  // namespace

bool Ring::suits(int group, int64_t bytes) {
  return library_.size(group) > 1 && bytes >= kLeastSliceBytes * library_.size(group);
}

Ring::Slice Ring::slice_of(const Piece& piece, int index) const {
  const int64_t each = (piece.elements + size_ - 1) / size_;
  const int64_t first = std::min(piece.elements, index * each);
  return {piece.data + first * static_cast<int64_t>(size_of(dtype_)),
          std::min(each, piece.elements - first)};
}

// Steps 0 to n - 2 hand on sums that grow, so that rank r ends with slice r + 1 complete; the n - 1
// steps after them hand on complete slices.
int Ring::post(int lane, int step) {
  Piece& piece = pieces_[lane];
  const int turns = 2 * size_;  // keeps what is divided positive
  const int behind = step < size_ - 1 ? step : step - size_;
  const Slice out = slice_of(piece, (rank_ - behind + turns) % size_);
  const Slice in = slice_of(piece, (rank_ - behind - 1 + turns) % size_);
  const auto bytes = [this](const Slice& slice) {
    return static_cast<int>(slice.elements * static_cast<int64_t>(size_of(dtype_)));
  };
  void* place = in.data;
  if (step < size_ - 1) {
    piece.received.resize(static_cast<size_t>(bytes(in)));
    place = piece.received.data();
  }
  return library_.post(lane, group_,
                       {.out = out.data,
                        .out_bytes = bytes(out),
                        .to = (rank_ + 1) % size_,
                        .in = place,
                        .in_bytes = bytes(in),
                        .from = (rank_ + size_ - 1) % size_});
}

void Ring::add(int lane, int step) {
  const Slice mine = slice_of(pieces_[lane], (rank_ - step - 1 + 2 * size_) % size_);
  const void* inputs[] = {pieces_[lane].received.data(), mine.data};
  void* outputs[] = {mine.data};
  reduce_in_order(reduction_ == ReduceOp::mean ? ReduceOp::sum : reduction_, dtype_, inputs,
                  outputs, mine.elements);
  const bool complete = step == size_ - 2;
  if (complete && reduction_ == ReduceOp::mean) {
    scale(dtype_, mine.data, mine.elements, 1.0 / size_);
  }
}

void Ring::all_reduce(int group, char* values, int64_t elements, DType dtype, ReduceOp reduction,
                      const std::function<void(int code)>& check,
                      const std::function<bool()>& advanced) {
  group_ = group;
  rank_ = library_.rank(group);
  size_ = library_.size(group);
  dtype_ = dtype;
  reduction_ = reduction;
  const int64_t width = static_cast<int64_t>(size_of(dtype));
  const int64_t largest = size_ * kSliceBytes / width;
  const int steps = 2 * (size_ - 1);
  for (int64_t start = 0; start < elements;) {
    int lanes = 0;
    for (; lanes < Library::kLanes && start < elements; ++lanes) {
      // Two halves rather than a large and a small piece.
      const int64_t left = elements - start;
      const int64_t count = std::min(largest, lanes == 0 ? (left + 1) / 2 : left);
      pieces_[lanes].data = values + start * width;
      pieces_[lanes].elements = count;
      start += count;
      check(post(lanes, 0));
    }
    bool goes_on = true;
    for (int step = 0; step < steps; ++step) {
      for (int lane = 0; lane < lanes; ++lane) {
        check(library_.complete(lane));
        if (!goes_on) continue;  // what is under way comes to its end
        if (step < size_ - 1) add(lane, step);
        if (step + 1 < steps) check(post(lane, step + 1));
      }
      if (!goes_on) return;
      goes_on = advanced();
    }
    if (!goes_on) return;
  }
}

}  // namespace lockstep::mpi
