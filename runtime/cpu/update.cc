#include "lockstep/runtime/cpu/update.h"

#include <algorithm>
#include <vector>

#include "lockstep/runtime/cpu/convert.h"
#include "lockstep/runtime/math/update.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::cpu {

namespace {

constexpr int64_t kPiece = 16 * 1024;  // values that a thread takes at a time
constexpr int64_t kStage = 1024;       // 16-bit values converted at a time
constexpr int kStates = UpdateRun::kStates;

template <class... F>
constexpr bool fit(math::TypeList<F...>) {
  return ((F::kStates <= kStates && math::update_constants_of<F> <= UpdateRun::kConstants) && ...);
}
static_assert(fit(math::UpdateOps{}));

struct Piece {
  const UpdateRun* run;
  int64_t begin;
  int64_t end;
};

// All runs cut into pieces, so that many small ones and a few large ones are shared out alike.
std::vector<Piece> pieces_of(const UpdateRun* runs, int count) {
  std::vector<Piece> pieces;
  for (int i = 0; i < count; ++i) {
    for (int64_t begin = 0; begin < runs[i].elements; begin += kPiece) {
      pieces.push_back({&runs[i], begin, std::min(runs[i].elements, begin + kPiece)});
    }
  }
  return pieces;
}

template <class T>
T* at(void* data, int64_t element) {
  return data == nullptr ? nullptr : static_cast<T*>(data) + element;
}

template <class T>
void direct(UpdateLoop<T> loop, const Piece& piece) {
  const UpdateRun& run = *piece.run;
  T* state[kStates];
  for (int i = 0; i < kStates; ++i) state[i] = at<T>(run.state[i], piece.begin);
  loop(run.constants, at<T>(run.parameter, piece.begin),
       at<T>(const_cast<void*>(run.gradient), piece.begin), state, piece.end - piece.begin);
}

// 16-bit values through f32.
void staged(const Loops& loops, UpdateLoop<float> loop, const Piece& piece) {
  const UpdateRun& run = *piece.run;
  void* arrays[2 + kStates] = {const_cast<void*>(run.gradient), run.parameter};
  std::copy_n(run.state, kStates, arrays + 2);
  float memory[2 + kStates][kStage];
  float* state[kStates];
  for (int i = 0; i < kStates; ++i) state[i] = memory[2 + i];
  for (int64_t begin = piece.begin; begin < piece.end; begin += kStage) {
    const int64_t n = std::min(kStage, piece.end - begin);
    for (int i = 0; i < 2 + kStates; ++i) {
      if (arrays[i] == nullptr) continue;
      convert(loops, at<uint16_t>(arrays[i], begin), run.dtype, 1, memory[i], DType::f32, 1, n);
    }
    loop(run.constants, memory[1], memory[0], state, n);
    for (int i = 1; i < 2 + kStates; ++i) {
      if (arrays[i] == nullptr) continue;
      convert(loops, memory[i], DType::f32, 1, at<uint16_t>(arrays[i], begin), run.dtype, 1, n);
    }
  }
}

// While the values that the update has left are in the cache.
void write_copy(const Loops& loops, const Piece& piece) {
  const UpdateRun& run = *piece.run;
  const auto from_size = static_cast<int64_t>(size_of(run.dtype));
  convert(loops, at<char>(run.parameter, piece.begin * from_size), run.dtype, 1,
          at<uint16_t>(run.copy, piece.begin), run.copy_dtype, 1, piece.end - piece.begin);
}

}  // namespace

void update(const Loops& loops, int op, const UpdateRun* runs, int count) {
  const std::vector<Piece> pieces = pieces_of(runs, count);
  parallel_for(static_cast<int64_t>(pieces.size()), 2, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Piece& piece = pieces[static_cast<size_t>(i)];
      switch (piece.run->dtype) {
        case DType::f64: direct(loops.f64.update[op], piece); break;
        case DType::f32: direct(loops.f32.update[op], piece); break;
        default: staged(loops, loops.f32.update[op], piece); break;
      }
      if (piece.run->copy != nullptr) write_copy(loops, piece);
    }
  });
}

}  // namespace lockstep::cpu
