#include "lockstep/runtime/cuda/convolution.h"

#include "lockstep/runtime/cuda/choice.h"
#include "lockstep/runtime/cuda/dnn.h"
#include "lockstep/runtime/cuda/kernels/convolution.h"
#include "lockstep/runtime/cuda/kernels/elementwise.h"
#include "lockstep/runtime/error.h"

namespace lockstep::cuda {
namespace {

// Nothing to add up: the result is beta times what was there.
bool is_empty(const View& a, const View& b, const View& result, double beta, Queue& queue) {
  if (result.elements() == 0) return true;
  if (a.elements() != 0 && b.elements() != 0) return false;
  beta == 0 ? fill(result, 0, queue) : scale_add(beta, result, 0, result, queue);
  return true;
}

void note(const char* name, DType dtype, const WindowOptions& options) {
  note_own_kernel(concat({name, " of ", dtype, " in ", options.spatial, " dimensions",
                          options.groups == 1 ? "" : concat({", ", options.groups, " groups"})}));
}

}  // namespace

void convolution(const View& x, const View& w, const WindowOptions& options, const View& y,
                 Queue& queue) {
  if (is_empty(x, w, y, 0, queue)) return;
  if (queue.dnn().convolution(x, w, options, y, queue)) return;
  note("convolution", y.dtype, options);
  own::convolution(x, w, options, y, queue);
}

void convolution_input_gradient(const View& dy, const View& w, const WindowOptions& options,
                                const View& dx, Queue& queue) {
  if (is_empty(dy, w, dx, 0, queue)) return;
  if (queue.dnn().convolution_input_gradient(dy, w, options, dx, queue)) return;
  note("convolution's input gradient", dx.dtype, options);
  own::convolution_input_gradient(dy, w, options, dx, queue);
}

void convolution_weight_gradient(const View& dy, const View& x, const WindowOptions& options,
                                 const View& dw, double beta, Queue& queue) {
  if (is_empty(dy, x, dw, beta, queue)) return;
  if (queue.dnn().convolution_weight_gradient(dy, x, options, dw, beta, queue)) return;
  note("convolution's weight gradient", dw.dtype, options);
  own::convolution_weight_gradient(dy, x, options, dw, beta, queue);
}

}  // namespace lockstep::cuda
