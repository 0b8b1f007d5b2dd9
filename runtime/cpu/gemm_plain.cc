// The f32 products of builds under ThreadSanitizer, which cannot look into oneDNN.
#include "lockstep/runtime/cpu/gemm.h"
#include "lockstep/runtime/cpu/scratch.h"

namespace lockstep::cpu {

void gemm(const Loops& loops, const Gemm& shape, const float* a, const float* b, float* c) {
  const Scratch<float> workspace(loops.f32.gemm.workspace(shape));
  loops.f32.gemm.multiply(shape, a, b, c, workspace.get());
}

}  // namespace lockstep::cpu
