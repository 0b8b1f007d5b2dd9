#include "lockstep/runtime/cpu/pooling.h"

#include <algorithm>
#include <limits>

#include "lockstep/runtime/cpu/scratch.h"
#include "lockstep/runtime/cpu/windows.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::cpu {

namespace {

constexpr int64_t kBlock = 256;        // values that are worked on together: they stay in cache
constexpr int64_t kGrain = 32 * 1024;  // values worth a thread

// 16-bit floats are computed in float, f32 and f64 as they are.
template <class T>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};

// Calls f(Type<T>{}) for the floating dtypes.
template <class F>
void with_float(DType dtype, const F& f) {
  dispatch(dtype, [&]<class T>(Type<T> type) {
    if constexpr (is_floating(dtype_of<T>)) f(type);
  });
}

// Spatial dimensions of a rank-3 to rank-5 view, padded in front to three.
struct Spatial {
  Spatial(const View& view) {
    for (int i = view.rank - 1, to = 2; i >= 2; --i, --to) {
      size[to] = view.shape[i];
      stride[to] = view.strides[i];
    }
  }
  int64_t size[3] = {1, 1, 1};
  int64_t stride[3] = {0, 0, 0};
};

struct Window {
  Window(const WindowOptions& options) {
    for (int i = 0; i < options.spatial; ++i) {
      const int to = 3 - options.spatial + i;
      kernel[to] = options.kernel[i];
      stride[to] = options.stride[i];
      padding[to] = options.padding[i];
      dilation[to] = options.dilation[i];
    }
  }
  int64_t kernel[3] = {1, 1, 1};
  int64_t stride[3] = {1, 1, 1};
  int64_t padding[3] = {0, 0, 0};
  int64_t dilation[3] = {1, 1, 1};
};

// Keeps the largest of `values` and where they are. NaN is the largest, and stays.
template <class T, class Value>
void keep_largest(const T* values, int64_t stride, int64_t place, bool first, Value* best,
                  int64_t* places, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const auto value = static_cast<Value>(values[i * stride]);
    const bool better = first || (!(value <= best[i]) && best[i] == best[i]);
    best[i] = better ? value : best[i];
    places[i] = better ? place : places[i];
  }
}

// One window for n channels side by side.
template <class T, class Value>
void largest_of_window(const T* x, int64_t channel_stride, const Spatial& in, const Window& window,
                       const int64_t (&at)[3], Value* best, int64_t* places, int64_t n) {
  std::fill(best, best + n, -std::numeric_limits<Value>::infinity());
  std::fill(places, places + n, 0);
  bool first = true;
  int64_t begin[3];
  for (int i = 0; i < 3; ++i) begin[i] = at[i] * window.stride[i] - window.padding[i];
  for (int64_t kd = 0; kd < window.kernel[0]; ++kd) {
    const int64_t depth = begin[0] + kd * window.dilation[0];
    if (depth < 0 || depth >= in.size[0]) continue;
    for (int64_t kh = 0; kh < window.kernel[1]; ++kh) {
      const int64_t height = begin[1] + kh * window.dilation[1];
      if (height < 0 || height >= in.size[1]) continue;
      for (int64_t kw = 0; kw < window.kernel[2]; ++kw) {
        const int64_t width = begin[2] + kw * window.dilation[2];
        if (width < 0 || width >= in.size[2]) continue;
        keep_largest(x + depth * in.stride[0] + height * in.stride[1] + width * in.stride[2],
                     channel_stride, (depth * in.size[1] + height) * in.size[2] + width, first,
                     best, places, n);
        first = false;
      }
    }
  }
}

template <class T>
void max_pool_of(const View& x, const WindowOptions& options, const View& y, const View& index) {
  using Value = typename ComputeType<T>::type;
  const Spatial in(x), out(y), places(index);
  const Window window(options);
  // Channels that lie side by side are taken together, others plane by plane.
  const int64_t block = x.strides[1] == 1 ? std::min(x.shape[1], kBlock) : 1;
  const int64_t blocks = (x.shape[1] + block - 1) / block;
  const int64_t rows = out.size[0] * out.size[1];
  const int64_t work = out.size[2] * block * window.kernel[0] * window.kernel[1] * window.kernel[2];
  const auto pool_row = [&](int64_t row, Value* best, int64_t* chosen) {
    const int64_t image = row / rows / blocks, channel = row / rows % blocks * block;
    const int64_t n = std::min(block, x.shape[1] - channel);
    int64_t at[3] = {row % rows / out.size[1], row % out.size[1], 0};
    const T* from = x.as<T>() + image * x.strides[0] + channel * x.strides[1];
    T* to = y.as<T>() + image * y.strides[0] + channel * y.strides[1] + at[0] * out.stride[0] +
            at[1] * out.stride[1];
    int64_t* to_places = index.as<int64_t>() + image * index.strides[0] +
                         channel * index.strides[1] + at[0] * places.stride[0] +
                         at[1] * places.stride[1];
    for (at[2] = 0; at[2] < out.size[2]; ++at[2]) {
      largest_of_window(from, x.strides[1], in, window, at, best, chosen, n);
      for (int64_t i = 0; i < n; ++i) {
        to[at[2] * out.stride[2] + i * y.strides[1]] = static_cast<T>(best[i]);
        to_places[at[2] * places.stride[2] + i * index.strides[1]] = chosen[i];
      }
    }
  };
  parallel_for(x.shape[0] * blocks * rows, std::max<int64_t>(1, kGrain / work),
               [&](int64_t begin, int64_t end) {
                 Value best[kBlock];
                 int64_t chosen[kBlock];
                 for (int64_t row = begin; row < end; ++row) pool_row(row, best, chosen);
               });
}

// n places of the other dimensions: y = matrix @ x along the one of strides x_step and y_step.
template <class T>
void resample_run(const T* x, int64_t x_stride, int64_t x_step, const SparseRows& matrix, T* y,
                  int64_t y_stride, int64_t y_step, int64_t rows, int64_t n) {
  using Value = typename ComputeType<T>::type;
  const int64_t* starts = matrix.starts.as<int64_t>();
  const int64_t* columns = matrix.columns.as<int64_t>();
  const double* weights = matrix.weights.as<double>();
  double sums[kBlock];
  for (int64_t row = 0; row < rows; ++row) {
    std::fill(sums, sums + n, 0.0);
    for (int64_t t = starts[row]; t < starts[row + 1]; ++t) {
      const T* from = x + columns[t] * x_step;
      const double weight = weights[t];
      for (int64_t i = 0; i < n; ++i) {
        sums[i] += weight * static_cast<double>(static_cast<Value>(from[i * x_stride]));
      }
    }
    T* to = y + row * y_step;
    for (int64_t i = 0; i < n; ++i) {
      to[i * y_stride] = static_cast<T>(static_cast<Value>(sums[i]));
    }
  }
}

}  // namespace

void max_pool(const Loops&, const View& x, const WindowOptions& options, const View& y,
              const View& index) {
  if (y.elements() == 0) return;
  with_float(x.dtype, [&]<class T>(Type<T>) { max_pool_of<T>(x, options, y, index); });
}

void resample(const Loops&, const View& x, int dim, const SparseRows& matrix, const View& y) {
  if (y.elements() == 0) return;
  View others_x = x, others_y = y;
  others_x.shape[dim] = others_y.shape[dim] = 1;
  const Windows others({&others_x, &others_y});
  const int last = others.rank - 1;
  const int64_t x_stride = others.windows[0].strides[last];
  const int64_t y_stride = others.windows[1].strides[last];
  const int64_t work = x.shape[dim] + y.shape[dim];
  with_float(x.dtype, [&]<class T>(Type<T>) {
    parallel_for(others.elements, std::max<int64_t>(64, kGrain / work),
                 [&](int64_t begin, int64_t end) {
                   Cursor cursor(others, begin);
                   for (int64_t at = begin; at < end;) {
                     const int64_t n = std::min({cursor.run(), end - at, kBlock});
                     resample_run(reinterpret_cast<const T*>(cursor.pointer(0)), x_stride,
                                  x.strides[dim], matrix, reinterpret_cast<T*>(cursor.pointer(1)),
                                  y_stride, y.strides[dim], y.shape[dim], n);
                     cursor.advance(n);
                     at += n;
                   }
                 });
  });
}

}  // namespace lockstep::cpu
