#include "lockstep/runtime/cpu/convolution_parts.h"

#include <algorithm>
#include <bit>

namespace lockstep::cpu {

namespace {

constexpr int64_t kLeastRows = 4;  // of a band: the library is slow on fewer

Convolution images_of(const Convolution& c, int64_t first, int64_t count) {
  Convolution part = c;
  part.geometry.batch = count;
  part.x = cut(c.x, 0, first, count);
  part.y = cut(c.y, 0, first, count);
  return part;
}

// Rows [x_begin, x_end) of x and [y_begin, y_end) of y with the padding that is left before them.
Convolution rows_of(const Convolution& c, int row, int64_t x_begin, int64_t x_end, int64_t y_begin,
                    int64_t y_end) {
  Convolution part = c;
  part.geometry.x[row] = x_end - x_begin;
  part.geometry.y[row] = y_end - y_begin;
  part.geometry.padding[row] = c.geometry.padding[row] + x_begin - y_begin * c.geometry.stride[row];
  part.x = cut(c.x, 2 + row, x_begin, x_end - x_begin);
  part.y = cut(c.y, 2 + row, y_begin, y_end - y_begin);
  return part;
}

// What makes rows [begin, end) of y. Without rows of x where it sees padding only.
Convolution band_of_y(const Convolution& c, int row, int64_t begin, int64_t end) {
  const ConvolutionGeometry& g = c.geometry;
  const int64_t reach = (g.kernel[row] - 1) * g.dilation[row];
  const int64_t first = begin * g.stride[row] - g.padding[row];
  const int64_t last = (end - 1) * g.stride[row] - g.padding[row] + reach;
  return rows_of(c, row, std::max<int64_t>(0, first), std::min(g.x[row], last + 1), begin, end);
}

// What makes rows [begin, end) of x's gradient.
Convolution band_of_x(const Convolution& c, int row, int64_t begin, int64_t end) {
  const ConvolutionGeometry& g = c.geometry;
  const int64_t stride = g.stride[row];
  const int64_t reach = (g.kernel[row] - 1) * g.dilation[row];
  const int64_t sees_first = (begin + g.padding[row] - reach + stride - 1) / stride;
  const int64_t first =
      std::max<int64_t>(0, std::min(sees_first, (begin + g.padding[row]) / stride));
  const int64_t last = std::min(g.y[row], (end - 1 + g.padding[row]) / stride + 1);
  return rows_of(c, row, begin, end, first, last);
}

std::vector<Convolution> bands_of(ConvolutionPass pass, const Convolution& c, int row,
                                  int64_t bands) {
  const bool of_x = pass == ConvolutionPass::input_gradient;
  const int64_t rows = of_x ? c.geometry.x[row] : c.geometry.y[row];
  // Powers of two: the usual thread counts share them evenly.
  bands = static_cast<int64_t>(
      std::bit_floor(static_cast<uint64_t>(std::clamp<int64_t>(rows / kLeastRows, 1, bands))));
  const int64_t size = (rows + bands - 1) / bands;
  std::vector<Convolution> parts;
  for (int64_t begin = 0; begin < rows; begin += size) {
    const int64_t end = std::min(rows, begin + size);
    parts.push_back(of_x ? band_of_x(c, row, begin, end) : band_of_y(c, row, begin, end));
    const ConvolutionGeometry& g = parts.back().geometry;
    if (g.x[row] <= 0 || g.y[row] <= 0) return {c};  // a band in the padding: not worth the trouble
  }
  return parts;
}

}  // namespace

View cut(const View& view, int dim, int64_t start, int64_t length) {
  View result = view;
  result.shape[dim] = length;
  result.data = static_cast<char*>(view.data) +
                start * view.strides[dim] * static_cast<int64_t>(size_of(view.dtype));
  return result;
}

std::vector<Convolution> parts_of(ConvolutionPass pass, const Convolution& c, int row,
                                  int64_t wanted) {
  const int64_t batch = c.geometry.batch;
  const int64_t count = (batch + wanted - 1) / wanted;
  const int64_t bands = std::max<int64_t>(1, wanted / batch);
  std::vector<Convolution> parts;
  for (int64_t first = 0; first < batch; first += count) {
    const Convolution images = images_of(c, first, std::min(count, batch - first));
    if (bands == 1) {
      parts.push_back(images);
      continue;
    }
    for (const Convolution& band : bands_of(pass, images, row, bands)) parts.push_back(band);
  }
  return parts;
}

}  // namespace lockstep::cpu
