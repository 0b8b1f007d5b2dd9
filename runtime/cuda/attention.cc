#include "lockstep/runtime/cuda/attention.h"

#include <limits>
#include <string>

#include "lockstep/runtime/cuda/choice.h"
#include "lockstep/runtime/cuda/dnn.h"
#include "lockstep/runtime/cuda/kernels/attention.h"
#include "lockstep/runtime/cuda/kernels/elementwise.h"
#include "lockstep/runtime/error.h"

namespace lockstep::cuda {
namespace {

// Below these, a kernel of the library costs more to plan than it saves: each length is a plan.
constexpr int64_t kFewQueries = 16;

// What makes the library refuse, and no more: each is told once.
std::string problem_of(const char* name, const View& q, const View& v,
                       const AttentionOptions& options) {
  return concat({name, " of ", q.dtype, q.shape[2] < kFewQueries ? ", few queries" : "",
                 options.bias.data != nullptr ? ", with a bias" : "", ", head size ", q.shape[3],
                 v.shape[3] == q.shape[3] ? "" : concat({" and ", v.shape[3]})});
}

}  // namespace

void attention(const View& q, const View& k, const View& v, const AttentionOptions& options,
               const View& out, const View& log_sum_exp, Queue& queue) {
  if (out.elements() == 0) return;
  if (k.elements() == 0) {
    fill(out, 0, queue);
    return fill(log_sum_exp, -std::numeric_limits<double>::infinity(), queue);
  }
  const bool few = q.shape[2] < kFewQueries;
  if (!few && queue.dnn().attention(q, k, v, options, out, log_sum_exp, queue)) return;
  note_own_kernel(problem_of("attention", q, v, options));
  own::attention(q, k, v, options, out, log_sum_exp, queue);
}

void attention_backward(const View& dout, const View& q, const View& k, const View& v,
                        const View& out, const View& log_sum_exp, const AttentionOptions& options,
                        const View& dq, const View& dk, const View& dv, Queue& queue) {
  if (q.elements() == 0 || k.elements() == 0 || v.elements() == 0) {
    for (const View* gradient : {&dq, &dk, &dv}) {
      if (gradient->elements() != 0) fill(*gradient, 0, queue);
    }
    return;
  }
  const bool few = q.shape[2] < kFewQueries;
  if (!few &&
      queue.dnn().attention_backward(dout, q, k, v, out, log_sum_exp, options, dq, dk, dv, queue)) {
    return;
  }
  note_own_kernel(problem_of("attention's gradient", q, v, options));
  own::attention_backward(dout, q, k, v, out, log_sum_exp, options, dq, dk, dv, queue);
}

}  // namespace lockstep::cuda
