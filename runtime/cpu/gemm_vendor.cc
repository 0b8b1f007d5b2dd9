#include <dnnl.h>
#include <omp.h>

#include "lockstep/runtime/cpu/gemm.h"
#include "lockstep/runtime/error.h"

namespace lockstep::cpu {

namespace {

// oneDNN takes its thread count from OpenMP's setting of the calling thread.
class OneThread {
 public:
  OneThread() : before_(omp_get_max_threads()) {
    if (before_ != 1) omp_set_num_threads(1);
  }
  ~OneThread() {
    if (before_ != 1) omp_set_num_threads(before_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

}  // namespace

void gemm(const Loops&, const Gemm& s, const float* a, const float* b, float* c) {
  const OneThread one_thread;
  const dnnl_status_t status = dnnl_sgemm(s.transpose_a ? 'T' : 'N', s.transpose_b ? 'T' : 'N', s.m,
                                          s.n, s.k, static_cast<float>(s.alpha), a, s.lda, b, s.ldb,
                                          static_cast<float>(s.beta), c, s.ldc);
  LOCKSTEP_CHECK(status == dnnl_success, "oneDNN's sgemm failed with status ",
                 static_cast<int>(status), " for m ", s.m, ", n ", s.n, ", k ", s.k);
}

}  // namespace lockstep::cpu
