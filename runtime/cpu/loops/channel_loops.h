#pragma once

#include "lockstep/runtime/cpu/loops/row_loops.h"

// Included by the per-level files only: internal linkage throughout.
namespace lockstep::cpu {
namespace {

template <class T>
double plane_squared_deviations(const T* x, T mean, int64_t n) {
  return blocked_sum<T>(
      n, [=](int64_t i) __attribute__((always_inline)) { return (x[i] - mean) * (x[i] - mean); });
}

template <class T>
double plane_centered_dot(const T* dy, const T* x, T mean, int64_t n) {
  return blocked_sum<T>(
      n, [=](int64_t i) __attribute__((always_inline)) { return dy[i] * (x[i] - mean); });
}

template <class T>
void plane_affine(const T* x, T scale, T shift, const T* dy, T dy_scale, T* y, int64_t n) {
  if (dy == nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = x[i] * scale + shift;
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = x[i] * scale + shift + dy[i] * dy_scale;
  }
}

// What a ReLU over `value` lets through of its gradient.
template <class T>
LOCKSTEP_HD T gated(T value, T dy) {
  return value <= T(0) ? T(0) : dy;
}

template <class T>
void plane_gate(const T* dy, const T* x, T scale, T shift, T* g, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) g[i] = gated(x[i] * scale + shift, dy[i]);
}

template <class T>
void pixel_gate(const T* dy, const T* x, const T* scale, const T* shift, T* g, int64_t rows,
                int64_t n) {
  for (int64_t row = 0; row < rows; ++row, dy += n, x += n, g += n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) g[i] = gated(x[i] * scale[i] + shift[i], dy[i]);
  }
}

template <class T>
void channel_gate_by_output(const T* dy, const T* y, T* g, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) g[i] = gated(y[i], dy[i]);
}

template <class T>
void channel_relu(T* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = y[i] < T(0) ? T(0) : y[i];
}

template <class T>
void pixel_add(const T* x, T* y, int64_t rows, int64_t n) {
  for (int64_t row = 0; row < rows; ++row) row_add(x + row * n, y, n);
}

template <class T>
void pixel_add_squared_deviations(const T* x, const T* mean, T* y, int64_t rows, int64_t n) {
  for (int64_t row = 0; row < rows; ++row, x += n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] += (x[i] - mean[i]) * (x[i] - mean[i]);
  }
}

template <class T>
void pixel_add_gradients(const T* dy, const T* x, const T* mean, T* sum, T* product, int64_t rows,
                         int64_t n) {
  for (int64_t row = 0; row < rows; ++row, x += n, dy += n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      sum[i] += dy[i];
      product[i] += dy[i] * (x[i] - mean[i]);
    }
  }
}

template <class T>
void pixel_affine(const T* x, const T* scale, const T* shift, const T* dy, const T* dy_scale, T* y,
                  int64_t rows, int64_t n) {
  for (int64_t row = 0; row < rows; ++row, x += n, y += n) {
    if (shift == nullptr) {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) y[i] = x[i] * scale[i];
    } else if (dy == nullptr) {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) y[i] = x[i] * scale[i] + shift[i];
    } else if (dy_scale == nullptr) {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) y[i] = x[i] * scale[i] + shift[i] + dy[i];
      dy += n;
    } else {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) y[i] = x[i] * scale[i] + shift[i] + dy[i] * dy_scale[i];
      dy += n;
    }
  }
}

template <class T>
constexpr ChannelLoops<T> channel_loops() {
  return {.squared_deviations = plane_squared_deviations<T>,
          .centered_dot = plane_centered_dot<T>,
          .affine = plane_affine<T>,
          .gate = plane_gate<T>,
          .add_pixels = pixel_add<T>,
          .add_squared_deviations = pixel_add_squared_deviations<T>,
          .add_gradients = pixel_add_gradients<T>,
          .affine_pixels = pixel_affine<T>,
          .gate_pixels = pixel_gate<T>,
          .relu = channel_relu<T>,
          .gate_by_output = channel_gate_by_output<T>};
}

}  // namespace
}  // namespace lockstep::cpu
