#include "lockstep/runtime/cpu/gemm.h"

#include "lockstep/runtime/cpu/scratch.h"

namespace lockstep::cpu {

void gemm(const Loops& loops, const Gemm& shape, const double* a, const double* b, double* c) {
  const Scratch<double> workspace(loops.f64.gemm.workspace(shape));
  loops.f64.gemm.multiply(shape, a, b, c, workspace.get());
}

}  // namespace lockstep::cpu
