#pragma once

#include "lockstep/runtime/cpu/loops/channel_loops.h"
#include "lockstep/runtime/cpu/loops/convert_loops.h"
#include "lockstep/runtime/cpu/loops/elementwise_loops.h"
#include "lockstep/runtime/cpu/loops/gemm_loops.h"
#include "lockstep/runtime/cpu/loops/row_loops.h"
#include "lockstep/runtime/cpu/loops/update_loops.h"

namespace lockstep::cpu {
namespace {

template <class T>
constexpr TypedLoops<T> typed_loops() {
  return {.elementwise = elementwise_loops<T>(),
          .rows = row_loops<T>(),
          .channels = channel_loops<T>(),
          .update = UpdateTable<T, math::UpdateOps>::loops,
          .gemm = {.workspace = gemm_workspace<T>, .multiply = gemm_loop<T>}};
}

constexpr Loops level_loops() {
  return {.f32 = typed_loops<float>(),
          .f64 = typed_loops<double>(),
          .convert = {.bf16_to_f32 = bf16_to_f32_loop,
                      .f16_to_f32 = f16_to_f32_loop,
                      .f32_to_bf16 = f32_to_bf16_loop,
                      .f32_to_f16 = f32_to_f16_loop},
          .philox = philox_loop};
}

}  // namespace
}  // namespace lockstep::cpu
