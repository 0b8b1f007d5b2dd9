#include "lockstep/runtime/cuda/convolution.h"

#include <optional>

#include "lockstep/runtime/cuda/choice.h"
#include "lockstep/runtime/cuda/dnn.h"
#include "lockstep/runtime/cuda/kernels/convolution.h"
#include "lockstep/runtime/cuda/kernels/elementwise.h"
#include "lockstep/runtime/cuda/matmul.h"
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

// An image whose channels lie innermost as the matrix [places, channels].
std::optional<View> as_matrix(const View& image) {
  const int64_t channels = image.shape[1];
  int64_t places = 1, distance = channels;
  const auto continues = [&](int dim) {
    if (image.shape[dim] == 1) return true;
    if (places == 1) distance = image.strides[dim];
    const bool next = image.strides[dim] == distance * places;
    places *= image.shape[dim];
    return next;
  };
  for (int dim = image.rank - 1; dim >= 2; --dim) {
    if (!continues(dim)) return std::nullopt;
  }
  const bool inside = channels == 1 || image.strides[1] == 1;
  if (!continues(0) || !inside || distance < channels) return std::nullopt;
  View matrix{.data = image.data, .dtype = image.dtype, .rank = 2};
  matrix.shape[0] = places;
  matrix.shape[1] = channels;
  matrix.strides[0] = distance;
  matrix.strides[1] = 1;
  return matrix;
}

// Of a convolution that sees each place by itself: the matrix [out, in].
std::optional<View> as_matrix(const View& w, const View& x, const View& y,
                              const WindowOptions& options) {
  if (options.groups != 1) return std::nullopt;
  for (int i = 0; i < options.spatial; ++i) {
    const bool alone = w.shape[2 + i] == 1 && options.stride[i] == 1 && options.padding[i] == 0;
    if (!alone || x.shape[2 + i] != y.shape[2 + i]) return std::nullopt;
  }
  View matrix = w;
  matrix.rank = 2;
  const bool by_rows = w.strides[1] == 1 && w.strides[0] >= w.shape[1];
  const bool by_columns = w.strides[0] == 1 && w.strides[1] >= w.shape[0];
  if (!by_rows && !by_columns) return std::nullopt;
  return matrix;
}

// dx += dy w as a product of matrices, in place: cuDNN's frontend adds to no gradient.
bool add_product(const View& dy, const View& w, const WindowOptions& options, const View& dx,
                 double beta, Queue& queue) {
  const std::optional<View> weights = as_matrix(w, dx, dy, options);
  const std::optional<View> from = as_matrix(dy), to = as_matrix(dx);
  if (!weights || !from || !to) return false;
  matmul(*from, *weights, *to, beta, queue);
  return true;
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
                                const View& dx, double beta, Queue& queue) {
  if (is_empty(dy, w, dx, beta, queue)) return;
  if (beta != 0 && add_product(dy, w, options, dx, beta, queue)) return;
  if (queue.dnn().convolution_input_gradient(dy, w, options, dx, beta, queue)) return;
  note("convolution's input gradient", dx.dtype, options);
  own::convolution_input_gradient(dy, w, options, dx, beta, queue);
}

void convolution_weight_gradient(const View& dy, const View& x, const WindowOptions& options,
                                 const View& dw, double beta, Queue& queue) {
  if (is_empty(dy, x, dw, beta, queue)) return;
  if (queue.dnn().convolution_weight_gradient(dy, x, options, dw, beta, queue)) return;
  note("convolution's weight gradient", dw.dtype, options);
  own::convolution_weight_gradient(dy, x, options, dw, beta, queue);
}

}  // namespace lockstep::cuda
