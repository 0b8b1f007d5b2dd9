#include "lockstep/runtime/cpu/convolution_pointwise.h"

#include <algorithm>
#include <utility>

#include "lockstep/runtime/cpu/elementwise.h"
#include "lockstep/runtime/cpu/matmul.h"
#include "lockstep/runtime/cpu/scratch.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::cpu {

namespace {

constexpr int64_t kMostSums = 8;      // parts that add up to a weight gradient
constexpr int64_t kSumPixels = 1024;  // that make one more of them worth its addition

bool is_matrix(int64_t row, int64_t rows, int64_t column, int64_t columns) {
  return ((column == 1 || columns == 1) && (row >= columns || rows == 1)) ||
         ((row == 1 || rows == 1) && (column >= rows || columns == 1));
}

// [batch, channels, pixels] of an image, or false.
bool as_matrices(const View& image, View* result) {
  int64_t stride = 0, pixels = 1;
  for (int i = 4; i >= 2; --i) {
    if (image.shape[i] == 1) continue;
    if (pixels == 1) stride = image.strides[i];
    if (image.strides[i] != stride * pixels) return false;
    pixels *= image.shape[i];
  }
  *result = image;
  result->rank = 3;
  result->shape[2] = pixels;
  result->strides[2] = pixels == 1 ? 1 : stride;
  return is_matrix(image.strides[1], image.shape[1], result->strides[2], pixels);
}

View weights_of(const View& w) {
  View result = w;
  result.rank = 2;
  return result;
}

View transposed(const View& view) {
  View result = view;
  std::swap(result.shape[view.rank - 1], result.shape[view.rank - 2]);
  std::swap(result.strides[view.rank - 1], result.strides[view.rank - 2]);
  return result;
}

View for_each_image(const View& w, int64_t batch) {
  View result{.data = w.data, .dtype = w.dtype, .rank = 3};
  result.shape[0] = batch;
  for (int i = 0; i < 2; ++i) {
    result.shape[i + 1] = w.shape[i];
    result.strides[i + 1] = w.strides[i];
  }
  return result;
}

View image_of(const View& images, int64_t i) {
  View result{.data = static_cast<char*>(images.data) +
                      i * images.strides[0] * static_cast<int64_t>(size_of(images.dtype)),
              .dtype = images.dtype,
              .rank = 2};
  for (int d = 0; d < 2; ++d) {
    result.shape[d] = images.shape[d + 1];
    result.strides[d] = images.strides[d + 1];
  }
  return result;
}

void add_products(const Loops& loops, const View& x, const View& dy, int64_t first, int64_t last,
                  const View& dw, double beta) {
  for (int64_t i = first; i < last; ++i) {
    matmul(loops, image_of(dy, i), transposed(image_of(x, i)), dw, i == first ? beta : 1);
  }
}

// Runs of images at the same time, added in their order; cut by the shape alone.
void weight_gradient(const Loops& loops, const View& x, const View& dy, const View& dw,
                     double beta) {
  const int64_t batch = x.shape[0];
  const int64_t parts =
      std::clamp<int64_t>(batch * x.shape[2] / kSumPixels, 1, std::min(batch, kMostSums));
  if (parts == 1) return add_products(loops, x, dy, 0, batch, dw, beta);
  const int64_t bytes = dw.elements() * static_cast<int64_t>(size_of(dw.dtype));
  const Scratch<char> sums(parts * bytes);
  const auto sum = [&](int64_t part) {
    View result = dw;
    result.data = sums.get() + part * bytes;
    result.strides[1] = 1;
    result.strides[0] = dw.shape[1];
    return result;
  };
  parallel_for(parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      add_products(loops, x, dy, batch * part / parts, batch * (part + 1) / parts, sum(part), 0);
    }
  });
  for (int64_t part = 0; part < parts; ++part) {
    scale_add(loops, 1, sum(part), part == 0 ? beta : 1, dw);
  }
}

}  // namespace

bool convolve_pointwise(const Loops& loops, ConvolutionPass pass, const Convolution& c) {
  const ConvolutionGeometry& g = c.geometry;
  if (g.taps() != 1 || g.groups != 1) return false;
  for (int i = 0; i < 3; ++i) {
    if (g.stride[i] != 1 || g.padding[i] != 0 || g.x[i] != g.y[i]) return false;
  }
  View x, y;
  if (!as_matrices(c.x, &x) || !as_matrices(c.y, &y)) return false;
  const bool planes = x.strides[2] == 1 && y.strides[2] == 1 && x.shape[2] > 1;
  if (c.x.dtype == DType::f32 && !planes) return false;
  const View w = weights_of(c.w);
  if (!is_matrix(w.strides[0], w.shape[0], w.strides[1], w.shape[1])) return false;
  switch (pass) {
    case ConvolutionPass::forward: matmul(loops, for_each_image(w, g.batch), x, y, 0); break;
    case ConvolutionPass::input_gradient:
      matmul(loops, for_each_image(transposed(w), g.batch), y, x, c.beta);
      break;
    case ConvolutionPass::weight_gradient: weight_gradient(loops, x, y, w, c.beta); break;
  }
  return true;
}

}  // namespace lockstep::cpu
