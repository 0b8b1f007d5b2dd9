#pragma once

#include <cstdint>
#include <type_traits>

#include "lockstep/runtime/cuda/access.h"
#include "lockstep/runtime/cuda/grid.h"
#include "lockstep/runtime/kernels.h"
#include "lockstep/runtime/math/update.h"

// The optimizers' arithmetic (runtime/math/update.h) over runs of parameters. Storage is double,
// float, or uint16_t for both 16-bit dtypes.
namespace lockstep::cuda {

// Runs of one launch: kernel arguments, so that nothing is copied to the device first.
inline constexpr int kRunsPerLaunch = 24;
inline constexpr int kUpdateThreads = 256;

// What a thread takes at once: 16 bytes of each array.
template <class Storage>
inline constexpr int kUpdateWidth = static_cast<int>(sizeof(Sixteen) / sizeof(Storage));
// What a block takes at once.
template <class Storage>
inline constexpr int64_t kUpdateTile = int64_t{kUpdateThreads} * kUpdateWidth<Storage>;

struct RunBatch {
  UpdateRun runs[kRunsPerLaunch];
  int64_t first_tile[kRunsPerLaunch + 1];  // of each run, among those of all; the end
  uint32_t aligned = 0;                    // bit i: run i's arrays begin on 16-byte boundaries
  int count = 0;
};

// 16 bytes at once, between storage and what the arithmetic is done in.
template <class Storage, class C>
LOCKSTEP_HD void load_sixteen(const void* data, DType dtype, int64_t at,
                              C (&out)[kUpdateWidth<Storage>]) {
  if constexpr (std::is_same_v<Storage, uint16_t>) {
    load_pack(data, dtype, at, out);
  } else {
    load_together(static_cast<const Storage*>(data) + at, out);
  }
}

template <class Storage, class C>
LOCKSTEP_HD void store_sixteen(void* data, DType dtype, int64_t at,
                               const C (&values)[kUpdateWidth<Storage>]) {
  if constexpr (std::is_same_v<Storage, uint16_t>) {
    store_pack(data, dtype, at, values);
  } else {
    store_together(static_cast<Storage*>(data) + at, values);
  }
}

// As the parameter reads once it is stored.
template <class Storage, class C>
LOCKSTEP_HD float stored(C value, DType dtype) {
  if constexpr (std::is_same_v<Storage, uint16_t>) {
    return dtype == DType::bf16 ? float_of(bfloat16_of(value)) : float_of(float16_of(value));
  } else {
    return static_cast<float>(value);
  }
}

template <class F, class Storage>
struct UpdateBody {
  using C = std::conditional_t<std::is_same_v<Storage, double>, double, float>;
  static constexpr int kThreads = kUpdateThreads;
  static constexpr bool kCooperative = false;
  static constexpr int kWidth = kUpdateWidth<Storage>;
  static constexpr int64_t kTile = kUpdateTile<Storage>;

  RunBatch batch;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int64_t tiles = batch.first_tile[batch.count];
    int which = 0;
    for (int64_t tile = t.block(); tile < tiles; tile += t.blocks()) {
      while (tile >= batch.first_tile[which + 1]) ++which;
      const UpdateRun& run = batch.runs[which];
      const F f = math::make_update<F>(run.constants);
      const int64_t begin = (tile - batch.first_tile[which]) * kTile;
      if ((batch.aligned >> which & 1) != 0 && begin + kTile <= run.elements) {
        several(f, run, begin + int64_t{t.index()} * kWidth);
        continue;
      }
      const int64_t end = begin + kTile < run.elements ? begin + kTile : run.elements;
      for (int64_t i = begin + t.index(); i < end; i += kThreads) one(f, run, i);
    }
  }

 private:
  LOCKSTEP_HD static void several(const F& f, const UpdateRun& run, int64_t at) {
    C parameter[kWidth], gradient[kWidth], states[F::kStates + 1][kWidth];
    load_sixteen<Storage>(run.parameter, run.dtype, at, parameter);
    load_sixteen<Storage>(run.gradient, run.dtype, at, gradient);
    for (int k = 0; k < F::kStates; ++k) {
      load_sixteen<Storage>(run.state[k], run.dtype, at, states[k]);
    }
    for (int i = 0; i < kWidth; ++i) {
      C state[F::kStates + 1];
      for (int k = 0; k < F::kStates; ++k) state[k] = states[k][i];
      f(parameter[i], gradient[i], state);
      for (int k = 0; k < F::kStates; ++k) states[k][i] = state[k];
    }
    for (int k = 0; k < F::kStates; ++k) {
      store_sixteen<Storage>(run.state[k], run.dtype, at, states[k]);
    }
    store_sixteen<Storage>(run.parameter, run.dtype, at, parameter);
    if (run.copy != nullptr) write_copy(run, at, parameter);
  }

  LOCKSTEP_HD static void write_copy(const UpdateRun& run, int64_t at, const C (&values)[kWidth]) {
    float copied[kWidth];
    for (int i = 0; i < kWidth; ++i) copied[i] = stored<Storage>(values[i], run.dtype);
    store_pack(run.copy, run.copy_dtype, at, copied);
  }

  LOCKSTEP_HD static void one(const F& f, const UpdateRun& run, int64_t at) {
    C parameter = load<C>(run.parameter, run.dtype, at);
    const C gradient = load<C>(run.gradient, run.dtype, at);
    C state[F::kStates + 1];
    for (int k = 0; k < F::kStates; ++k) state[k] = load<C>(run.state[k], run.dtype, at);
    f(parameter, gradient, state);
    for (int k = 0; k < F::kStates; ++k) store<C>(run.state[k], run.dtype, at, state[k]);
    store<C>(run.parameter, run.dtype, at, parameter);
    if (run.copy == nullptr) return;
    store<float>(run.copy, run.copy_dtype, at, stored<Storage>(parameter, run.dtype));
  }
};

}  // namespace lockstep::cuda
