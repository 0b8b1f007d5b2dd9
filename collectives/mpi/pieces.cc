#include "lockstep/collectives/mpi/pieces.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "lockstep/collectives/call_difference.h"
#include "lockstep/collectives/fingerprint.h"
#include "lockstep/collectives/reduce_cpu.h"
#include "lockstep/runtime/error.h"

namespace lockstep::mpi {
namespace {

constexpr int64_t kPieceBytes = 1 << 20;

Operation operation_of(ReduceOp reduction) {
  switch (reduction) {
    case ReduceOp::sum:
    case ReduceOp::mean: return Operation::sum;
    case ReduceOp::max: return Operation::max;
    case ReduceOp::min: return Operation::min;
  }
  __builtin_unreachable();
}

bool is_half(DType dtype) { return dtype == DType::bf16 || dtype == DType::f16; }

// Calls piece(start, count) over [0, count) until it returns false.
template <class F>
void for_pieces(int64_t count, int64_t largest, F&& piece) {
  for (int64_t start = 0; start < count; start += largest) {
    if (!piece(start, std::min(largest, count - start))) return;
  }
}

// What a rank is about to do, as the others see it when they differ.
struct Call {
  int64_t fingerprint = 0;
  char text[504] = {};
};

// A hash of what ranks must agree on. Not negative.
int64_t fingerprint(const WorkState& work, int64_t place) {
  const uint64_t call = mixed(work.fingerprint(), work.sequence);
  return static_cast<int64_t>(mixed(call, static_cast<uint64_t>(place)) >> 1);
}

}  // namespace

void Pieces::check(int code) {
  if (code == 0) return;
  char text[512] = {};
  library_.error_text(code, text, sizeof(text));
  fail({"MPI: ", text});
}

void Pieces::run(int group, const WorkState& work, const std::function<bool()>& advanced) {
  const int64_t place = group == 0 && host_ != nullptr ? host_->place_of(work) : -1;
  agree(group, work, place);
  const auto reduce = [&](int among, Values values, ReduceOp reduction) {
    all_reduce(among, values, reduction, work.size, advanced);
  };
  if (place >= 0) {
    host_->all_reduce(
        work,
        [&](int between, void* data, int64_t elements) {
          reduce(between, {static_cast<char*>(data), elements, work.dtype}, ReduceOp::sum);
        },
        advanced);
    return;
  }
  switch (work.collective) {
    case Collective::all_reduce: {
      char* data = static_cast<char*>(work.output.data());
      return reduce(group, {data, work.elements, work.dtype}, work.reduction);
    }
    case Collective::reduce_scatter: return reduce_scatter(group, work, advanced);
    case Collective::all_gather: return all_gather(group, work, advanced);
    case Collective::broadcast: return broadcast(group, work, advanced);
    case Collective::barrier:  // to agree is to meet
    case Collective::split: return;
  }
}

void Pieces::agree(int group, const WorkState& work, int64_t place) {
  Call mine{.fingerprint = fingerprint(work, place)};
  // Equal where the largest is also the smallest.
  int64_t extremes[2] = {mine.fingerprint, -mine.fingerprint};
  check(library_.all_reduce(group, extremes, 2, DType::i64, Operation::max));
  if (extremes[0] == -extremes[1]) return;

  const std::string text = concat({work.describe_call(), place >= 0 ? ", in shared memory" : ""});
  text.copy(mine.text, sizeof(mine.text) - 1);
  std::vector<Call> all(static_cast<size_t>(work.size));
  check(library_.all_gather(group, &mine, all.data(), sizeof(Call), sizeof(Call)));
  std::vector<RankCall> calls;
  for (const Call& call : all) {
    calls.push_back(
        {static_cast<int>(calls.size()), static_cast<uint64_t>(call.fingerprint), call.text});
  }
  fail({describe_difference(calls)});
}

void Pieces::all_reduce(int group, Values values, ReduceOp reduction, int size,
                        const std::function<bool()>& advanced) {
  const int64_t width = static_cast<int64_t>(size_of(values.dtype));
  if (!is_half(values.dtype) && ring_.suits(group, values.elements * width)) {
    const auto check = [this](int code) { this->check(code); };
    return ring_.all_reduce(group, values.data, values.elements, values.dtype, reduction, check,
                            advanced);
  }
  for_pieces(values.elements, kPieceBytes / width, [&](int64_t start, int64_t count) {
    char* here = values.data + start * width;
    if (is_half(values.dtype)) {
      all_reduce_half(group, {here, count, values.dtype}, reduction);
      return advanced();
    }
    const Operation operation = operation_of(reduction);
    check(library_.all_reduce(group, here, static_cast<int>(count), values.dtype, operation));
    if (reduction == ReduceOp::mean) scale(values.dtype, here, count, 1.0 / size);
    return advanced();
  });
}

// MPI knows no 16-bit floats, and a ring would round them at each rank. So every rank gets its
// slice of all ranks' values, adds them up in float, and gives the result to all: the bytes of a
// ring.
void Pieces::all_reduce_half(int group, Values values, ReduceOp reduction) {
  const int size = library_.size(group);
  const int64_t slice = (values.elements + size - 1) / size;
  const int64_t width = static_cast<int64_t>(size_of(values.dtype));
  const size_t bytes = static_cast<size_t>(values.elements * width);
  packed_.resize(static_cast<size_t>(slice * size * width));
  std::memcpy(packed_.data(), values.data, bytes);
  std::memset(packed_.data() + bytes, 0, packed_.size() - bytes);
  void* sum = packed_.data() + library_.rank(group) * slice * width;
  reduce_scatter_half(group, {static_cast<char*>(sum), slice, values.dtype}, reduction);
  const int slice_bytes = static_cast<int>(slice * width);
  check(library_.all_gather(group, sum, packed_.data(), slice_bytes, slice_bytes));
  std::memcpy(values.data, packed_.data(), bytes);
}

// From packed_, which holds a slice for every rank.
void Pieces::reduce_scatter_half(int group, Values slice, ReduceOp reduction) {
  const int size = library_.size(group);
  const size_t bytes = static_cast<size_t>(slice.elements) * size_of(slice.dtype);
  received_.resize(bytes * static_cast<size_t>(size));
  check(library_.all_to_all(group, packed_.data(), received_.data(), static_cast<int>(bytes)));
  std::vector<const void*> inputs;
  for (int rank = 0; rank < size; ++rank) {
    inputs.push_back(received_.data() + static_cast<size_t>(rank) * bytes);
  }
  void* const outputs[] = {slice.data};
  reduce_in_order(reduction, slice.dtype, inputs, outputs, slice.elements);
}

void Pieces::reduce_scatter(int group, const WorkState& work,
                            const std::function<bool()>& advanced) {
  const int64_t width = static_cast<int64_t>(size_of(work.dtype));
  const int64_t largest =
      std::min(work.elements, std::max<int64_t>(1, kPieceBytes / (width * work.size)));
  const char* input = static_cast<const char*>(work.input.data());
  char* output = static_cast<char*>(work.output.data());
  for_pieces(work.elements, largest, [&](int64_t start, int64_t count) {
    // MPI wants the slices' pieces side by side. The copy also frees `output` to lie in `input`.
    packed_.resize(static_cast<size_t>(count * width * work.size));
    for (int slice = 0; slice < work.size; ++slice) {
      std::memcpy(packed_.data() + slice * count * width,
                  input + (slice * work.elements + start) * width,
                  static_cast<size_t>(count * width));
    }
    char* here = output + start * width;
    if (is_half(work.dtype)) {
      reduce_scatter_half(group, {here, count, work.dtype}, work.reduction);
      return advanced();
    }
    check(library_.reduce_scatter(group, packed_.data(), here, static_cast<int>(count), work.dtype,
                                  operation_of(work.reduction)));
    if (work.reduction == ReduceOp::mean) scale(work.dtype, here, count, 1.0 / work.size);
    return advanced();
  });
}

void Pieces::all_gather(int group, const WorkState& work, const std::function<bool()>& advanced) {
  const int64_t bytes = static_cast<int64_t>(work.input.bytes());
  const char* input = static_cast<const char*>(work.input.data());
  char* output = static_cast<char*>(work.output.data());
  const int64_t largest = std::max<int64_t>(1, kPieceBytes / work.size);
  for_pieces(bytes, largest, [&](int64_t start, int64_t count) {
    check(
        library_.all_gather(group, input + start, output + start, static_cast<int>(count), bytes));
    return advanced();
  });
}

void Pieces::broadcast(int group, const WorkState& work, const std::function<bool()>& advanced) {
  char* values = static_cast<char*>(work.output.data());
  for_pieces(static_cast<int64_t>(work.output.bytes()), kPieceBytes,
             [&](int64_t start, int64_t count) {
               check(library_.broadcast(group, values + start, static_cast<int>(count), work.root));
               return advanced();
             });
}

}  // namespace lockstep::mpi
