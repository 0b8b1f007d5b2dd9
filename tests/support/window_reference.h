#pragma once

#include <cstdint>
#include <vector>

#include "lockstep/runtime/kernels.h"
#include "lockstep/runtime/shape.h"

namespace lockstep::testing {

// Convolution and its gradients as plain sums in double, over row-major values.
class WindowReference {
 public:
  WindowReference(const Shape& x, const Shape& w, const Shape& y, const WindowOptions& options)
      : x_(x), w_(w), y_(y), options_(options) {}

  std::vector<double> convolution(const std::vector<double>& x,
                                  const std::vector<double>& w) const {
    std::vector<double> y(count(y_), 0.0);
    for_products([&](size_t i, size_t j, size_t k) { y[k] += x[i] * w[j]; });
    return y;
  }
  std::vector<double> input_gradient(const std::vector<double>& dy,
                                     const std::vector<double>& w) const {
    std::vector<double> dx(count(x_), 0.0);
    for_products([&](size_t i, size_t j, size_t k) { dx[i] += dy[k] * w[j]; });
    return dx;
  }
  std::vector<double> weight_gradient(const std::vector<double>& dy,
                                      const std::vector<double>& x) const {
    std::vector<double> dw(count(w_), 0.0);
    for_products([&](size_t i, size_t j, size_t k) { dw[j] += dy[k] * x[i]; });
    return dw;
  }

 private:
  static size_t count(const Shape& shape) { return static_cast<size_t>(shape.elements()); }
  static int64_t spatial(const Shape& shape) {
    int64_t product = 1;
    for (int i = 2; i < shape.rank(); ++i) product *= shape[i];
    return product;
  }

  // The place in x's image under tap `tap` of window `window`, or -1 in the padding.
  int64_t place(int64_t window, int64_t tap) const {
    int64_t result = 0, factor = 1;
    for (int i = options_.spatial - 1; i >= 0; --i) {
      const int64_t at = window % y_[2 + i] * options_.stride[i] - options_.padding[i] +
                         tap % w_[2 + i] * options_.dilation[i];
      if (at < 0 || at >= x_[2 + i]) return -1;
      result += at * factor;
      factor *= x_[2 + i];
      window /= y_[2 + i];
      tap /= w_[2 + i];
    }
    return result;
  }

  // Calls f(place in x, place in w, place in y) for every product.
  template <class F>
  void for_products(const F& f) const {
    const int64_t pixels = spatial(x_), taps = spatial(w_), windows = spatial(y_);
    const int64_t in = w_[1], out = w_[0] / options_.groups;
    std::vector<int64_t> places;
    for (int64_t i = 0; i < windows * taps; ++i) places.push_back(place(i / taps, i % taps));
    for (int64_t image = 0; image < x_[0]; ++image) {
      for (int64_t o = 0; o < w_[0]; ++o) {
        for (int64_t c = 0; c < in; ++c) {
          const int64_t x_plane = (image * x_[1] + o / out * in + c) * pixels;
          const int64_t w_plane = (o * in + c) * taps, y_plane = (image * w_[0] + o) * windows;
          for (int64_t i = 0; i < windows * taps; ++i) {
            const int64_t at = places[static_cast<size_t>(i)];
            if (at < 0) continue;
            f(static_cast<size_t>(x_plane + at), static_cast<size_t>(w_plane + i % taps),
              static_cast<size_t>(y_plane + i / taps));
          }
        }
      }
    }
  }

  Shape x_, w_, y_;
  WindowOptions options_;
};

}  // namespace lockstep::testing
