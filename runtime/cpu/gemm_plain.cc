// The f32 products of builds under ThreadSanitizer, which cannot look into oneDNN.
#include "lockstep/runtime/cpu/gemm.h"
#include "lockstep/runtime/cpu/scratch.h"
#include "lockstep/runtime/error.h"

namespace lockstep::cpu {

void gemm(const Loops& loops, const Gemm& shape, const float* a, const float* b, float* c) {
  const Scratch<float> workspace(loops.f32.gemm.workspace(shape));
  loops.f32.gemm.multiply(shape, a, b, c, workspace.get());
}

void gemm(const Loops&, const Gemm&, const BFloat16*, const BFloat16*, BFloat16*) {
  fail({"there are no bf16 products in this build"});
}

void gemm(const Loops&, const Gemm&, const BFloat16*, const BFloat16*, float*) {
  fail({"there are no bf16 products in this build"});
}

bool multiplies_in(DType dtype) { return dtype == DType::f32 || dtype == DType::f64; }

}  // namespace lockstep::cpu
