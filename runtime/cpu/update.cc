#include "lockstep/runtime/cpu/update.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "lockstep/runtime/cpu/convert.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::cpu {

namespace {

constexpr int64_t kPiece = 16 * 1024;  // values that a thread takes at a time
constexpr int64_t kStage = 1024;       // 16-bit values converted at a time

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

// f(parameter, gradient, m, v, n) on 16-bit values [begin, end) of a run, through f32.
template <class F>
void staged(const Loops& loops, const Piece& piece, const F& f) {
  const UpdateRun& run = *piece.run;
  void* arrays[4] = {run.parameter, const_cast<void*>(run.gradient), run.first_moment,
                     run.second_moment};
  float memory[4][kStage];
  for (int64_t begin = piece.begin; begin < piece.end; begin += kStage) {
    const int64_t n = std::min(kStage, piece.end - begin);
    for (int i = 0; i < 4; ++i) {
      if (arrays[i] == nullptr) continue;
      convert(loops, at<uint16_t>(arrays[i], begin), run.dtype, 1, memory[i], DType::f32, 1, n);
    }
    f(memory[0], memory[1], arrays[2] == nullptr ? nullptr : memory[2], memory[3], n);
    for (int i : {0, 2, 3}) {
      if (arrays[i] == nullptr) continue;
      convert(loops, memory[i], DType::f32, 1, at<uint16_t>(arrays[i], begin), run.dtype, 1, n);
    }
  }
}

// Calls f(loops of T, parameter, gradient, m, v, n) for a piece, whatever its dtype.
template <class F>
void apply(const Loops& loops, const Piece& piece, const F& f) {
  const UpdateRun& run = *piece.run;
  const auto direct = [&]<class T>(T) {
    f(loops.of<T>().update, at<T>(run.parameter, piece.begin),
      at<T>(const_cast<void*>(run.gradient), piece.begin), at<T>(run.first_moment, piece.begin),
      at<T>(run.second_moment, piece.begin), piece.end - piece.begin);
  };
  if (run.dtype == DType::f64) return direct(double{});
  if (run.dtype == DType::f32) return direct(float{});
  staged(loops, piece, [&](float* parameter, float* gradient, float* m, float* v, int64_t n) {
    f(loops.f32.update, parameter, gradient, m, v, n);
  });
}

}  // namespace

void adam(const Loops& loops, const UpdateRun* runs, int count, const AdamOptions& options) {
  const double step = static_cast<double>(options.step);
  AdamConstants shared{.beta1 = options.beta1,
                       .beta2 = options.beta2,
                       .step_size = options.learning_rate / (1 - std::pow(options.beta1, step)),
                       .inverse_root = 1 / std::sqrt(1 - std::pow(options.beta2, step)),
                       .epsilon = options.epsilon,
                       .gradient_scale = options.gradient_scale,
                       .parameter_scale = 1,
                       .decay = 0};
  const std::vector<Piece> pieces = pieces_of(runs, count);
  parallel_for(static_cast<int64_t>(pieces.size()), 2, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Piece& piece = pieces[static_cast<size_t>(i)];
      AdamConstants constants = shared;
      const double decay = piece.run->weight_decay;
      (options.decoupled ? constants.parameter_scale : constants.decay) =
          options.decoupled ? 1 - options.learning_rate * decay : decay;
      apply(loops, piece,
            [&](const auto& update, auto* parameter, auto* gradient, auto* m, auto* v, int64_t n) {
              update.adam(parameter, gradient, m, v, n, constants);
            });
    }
  });
}

void sgd(const Loops& loops, const UpdateRun* runs, int count, const SgdOptions& options) {
  const std::vector<Piece> pieces = pieces_of(runs, count);
  parallel_for(static_cast<int64_t>(pieces.size()), 2, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Piece& piece = pieces[static_cast<size_t>(i)];
      const SgdConstants constants{.learning_rate = options.learning_rate,
                                   .momentum = options.momentum,
                                   .gradient_share = options.first_step ? 1 : 1 - options.dampening,
                                   .gradient_scale = options.gradient_scale,
                                   .decay = piece.run->weight_decay,
                                   .nesterov = options.nesterov,
                                   .first_step = options.first_step};
      apply(loops, piece,
            [&](const auto& update, auto* parameter, auto* gradient, auto* m, auto*, int64_t n) {
              update.sgd(parameter, gradient, m, n, constants);
            });
    }
  });
}

}  // namespace lockstep::cpu
