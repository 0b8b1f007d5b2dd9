#include <dnnl.h>

#include "lockstep/runtime/cpu/gemm.h"
#include "lockstep/runtime/cpu/one_thread.h"
#include "lockstep/runtime/error.h"

namespace lockstep::cpu {

void gemm(const Loops&, const Gemm& s, const float* a, const float* b, float* c) {
  const OneThread one_thread;
  const dnnl_status_t status = dnnl_sgemm(s.transpose_a ? 'T' : 'N', s.transpose_b ? 'T' : 'N', s.m,
                                          s.n, s.k, static_cast<float>(s.alpha), a, s.lda, b, s.ldb,
                                          static_cast<float>(s.beta), c, s.ldc);
  LOCKSTEP_CHECK(status == dnnl_success, "oneDNN's sgemm failed with status ",
                 static_cast<int>(status), " for m ", s.m, ", n ", s.n, ", k ", s.k);
}

}  // namespace lockstep::cpu
