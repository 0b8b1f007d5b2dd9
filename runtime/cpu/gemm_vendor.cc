#include <dnnl.h>

#include <dnnl.hpp>

#include "lockstep/runtime/cpu/convolution_layouts.h"
#include "lockstep/runtime/cpu/gemm.h"
#include "lockstep/runtime/cpu/one_thread.h"
#include "lockstep/runtime/cpu/scratch.h"
#include "lockstep/runtime/error.h"

namespace lockstep::cpu {
namespace {

Desc matrix_desc(int64_t rows, int64_t columns, bool transposed, int64_t leading,
                 memory::data_type type = memory::data_type::bf16) {
  const memory::dims strides = transposed ? memory::dims{1, leading} : memory::dims{leading, 1};
  return Desc({rows, columns}, type, strides);
}

void multiply_bf16(const Gemm& s, const BFloat16* a, const BFloat16* b, void* c,
                   memory::data_type type) {
  const OneThread one_thread;
  const Desc left = matrix_desc(s.m, s.k, s.transpose_a, s.lda);
  const Desc right = matrix_desc(s.k, s.n, s.transpose_b, s.ldb);
  const Desc out = matrix_desc(s.m, s.n, false, s.ldc, type);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (s.beta != 0) {
    dnnl::post_ops sum;
    sum.append_sum(static_cast<float>(s.beta));
    attributes.set_post_ops(sum);
  }
  const dnnl::matmul::primitive_desc made({left, right, out}, attributes, engine());
  const Scratch<char> scratch(static_cast<int64_t>(made.scratchpad_desc().get_size()));
  dnnl::stream stream(engine());
  dnnl::matmul(made).execute(
      stream, {{DNNL_ARG_SRC, memory(left, engine(), const_cast<BFloat16*>(a))},
               {DNNL_ARG_WEIGHTS, memory(right, engine(), const_cast<BFloat16*>(b))},
               {DNNL_ARG_DST, memory(out, engine(), c)},
               {DNNL_ARG_SCRATCHPAD, memory(made.scratchpad_desc(), engine(), scratch.get())}});
  stream.wait();
}

}  // namespace

void gemm(const Loops&, const Gemm& s, const float* a, const float* b, float* c) {
  const OneThread one_thread;
  const dnnl_status_t status = dnnl_sgemm(s.transpose_a ? 'T' : 'N', s.transpose_b ? 'T' : 'N', s.m,
                                          s.n, s.k, static_cast<float>(s.alpha), a, s.lda, b, s.ldb,
                                          static_cast<float>(s.beta), c, s.ldc);
  LOCKSTEP_CHECK(status == dnnl_success, "oneDNN's sgemm failed with status ",
                 static_cast<int>(status), " for m ", s.m, ", n ", s.n, ", k ", s.k);
}

void gemm(const Loops&, const Gemm& s, const BFloat16* a, const BFloat16* b, BFloat16* c) {
  multiply_bf16(s, a, b, c, memory::data_type::bf16);
}

void gemm(const Loops&, const Gemm& s, const BFloat16* a, const BFloat16* b, float* c) {
  multiply_bf16(s, a, b, c, memory::data_type::f32);
}

bool multiplies_in(DType dtype) {
  if (dtype == DType::bf16) {
    return dnnl::get_effective_cpu_isa() == dnnl::cpu_isa::avx512_core_amx;
  }
  return dtype == DType::f32 || dtype == DType::f64;
}

}  // namespace lockstep::cpu
