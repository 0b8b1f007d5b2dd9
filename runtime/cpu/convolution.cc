#include "lockstep/runtime/cpu/convolution.h"

#include <algorithm>
#include <vector>

#include "lockstep/runtime/cpu/convolution_columns.h"
#include "lockstep/runtime/cpu/convolution_pointwise.h"
#include "lockstep/runtime/cpu/convolution_vendor.h"
#include "lockstep/runtime/cpu/elementwise.h"
#include "lockstep/runtime/cpu/scratch.h"

namespace lockstep::cpu {

namespace {

// Rank 5, with dimensions of size 1 before the spatial ones that there are.
View with_three_spatial(const View& view) {
  View result = view;
  const int missing = 5 - view.rank;
  result.rank = 5;
  for (int i = 2; i < 5; ++i) {
    const bool given = i >= 2 + missing;
    result.shape[i] = given ? view.shape[i - missing] : 1;
    result.strides[i] = given ? view.strides[i - missing] : 1;
  }
  return result;
}

Convolution convolution_of(const View& x, const View& w, const View& y,
                           const WindowOptions& options, double beta) {
  Convolution c{.geometry = {.batch = x.shape[0],
                             .in = x.shape[1],
                             .out = y.shape[1],
                             .groups = options.groups},
                .x = with_three_spatial(x),
                .w = with_three_spatial(w),
                .y = with_three_spatial(y),
                .beta = beta};
  for (int i = 0; i < 3; ++i) {
    const int given = i - (3 - options.spatial);
    c.geometry.x[i] = c.x.shape[2 + i];
    c.geometry.y[i] = c.y.shape[2 + i];
    c.geometry.kernel[i] = c.w.shape[2 + i];
    c.geometry.stride[i] = given < 0 ? 1 : options.stride[given];
    c.geometry.padding[i] = given < 0 ? 0 : options.padding[given];
    c.geometry.dilation[i] = given < 0 ? 1 : options.dilation[given];
  }
  return c;
}

// Each stride steps over everything that smaller ones reach.
bool overlaps(const View& view) {
  std::vector<int> order;
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] != 1) order.push_back(i);
  }
  std::sort(order.begin(), order.end(),
            [&](int a, int b) { return view.strides[a] < view.strides[b]; });
  int64_t extent = 1;
  for (const int i : order) {
    if (view.strides[i] < extent) return true;
    extent = view.strides[i] * view.shape[i];
  }
  return false;
}

void run(const Loops& loops, ConvolutionPass pass, const Convolution& c);

void run_on_copies(const Loops& loops, ConvolutionPass pass, const Convolution& c) {
  const Copy<float> x(loops, c.x), w(loops, c.w), y(loops, c.y);
  run(loops, pass,
      {.geometry = c.geometry, .x = x.view(), .w = w.view(), .y = y.view(), .beta = c.beta});
  const Copy<float>* copies[] = {&y, &x, &w};
  copies[static_cast<int>(pass)]->write_back();
}

void run(const Loops& loops, ConvolutionPass pass, const Convolution& c) {
  const View& result = c.result(pass);
  if (result.elements() == 0) return;
  if (c.x.elements() == 0 || c.w.elements() == 0 || c.y.elements() == 0) {
    if (c.beta == 0) return fill(loops, result, 0);
    return scale_add(loops, c.beta, result, 0, result);
  }
  const bool full = result.dtype == DType::f64 || result.dtype == DType::f32;
  if (full && convolve_pointwise(loops, pass, c)) return;
  if (result.dtype == DType::f64) return convolve_by_columns<double>(loops, pass, c);
  const bool plain = !overlaps(c.x) && !overlaps(c.w) && !overlaps(c.y);
  if (plain && result.dtype != DType::f16 && convolve_by_library(loops, pass, c)) return;
  // Windows that overlap themselves come again as copies, for which the library may do.
  if (result.dtype == DType::f32 && plain) return convolve_by_columns<float>(loops, pass, c);
  run_on_copies(loops, pass, c);
}

}  // namespace

void convolution(const Loops& loops, const View& x, const View& w, const WindowOptions& options,
                 const View& y) {
  run(loops, ConvolutionPass::forward, convolution_of(x, w, y, options, 0));
}

void convolution_input_gradient(const Loops& loops, const View& dy, const View& w,
                                const WindowOptions& options, const View& dx, double beta) {
  run(loops, ConvolutionPass::input_gradient, convolution_of(dx, w, dy, options, beta));
}

void convolution_weight_gradient(const Loops& loops, const View& dy, const View& x,
                                 const WindowOptions& options, const View& dw, double beta) {
  run(loops, ConvolutionPass::weight_gradient, convolution_of(x, dw, dy, options, beta));
}

}  // namespace lockstep::cpu
