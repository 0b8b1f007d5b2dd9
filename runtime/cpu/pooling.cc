#include "lockstep/runtime/cpu/pooling.h"

#include <algorithm>
#include <limits>
#include <type_traits>

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

// Places of values that are computed in float fit the same width: the loops vectorise.
template <class Value>
using Place = std::conditional_t<sizeof(Value) == 4, int32_t, int64_t>;

// Keeps the larger of `values` and `best`, and its place: `place` and those `step` further each.
// NaN is the largest, and stays. A place below 0: none so far.
template <class T, class Value>
void keep_largest(const T* __restrict__ values, int64_t stride, Place<Value> place,
                  Place<Value> step, Value* __restrict__ best, Place<Value>* __restrict__ places,
                  int64_t n) {
  const auto loop = [&](int64_t by) {
    for (int64_t i = 0; i < n; ++i) {
      const auto value = static_cast<Value>(values[i * by]);
      const bool better = (!(value <= best[i]) & (best[i] == best[i])) | (places[i] < 0);
      best[i] = better ? value : best[i];
      places[i] = better ? place + static_cast<Place<Value>>(i) * step : places[i];
    }
  };
  if (stride == 1) {
    loop(1);
  } else {
    loop(stride);
  }
}

// Calls f(offset, place) of the beginnings of the rows of x that the window at (depth, row) sees.
template <class F>
void for_rows(const Spatial& in, const Window& window, const int64_t (&at)[2], const F& f) {
  for (int64_t kd = 0; kd < window.kernel[0]; ++kd) {
    const int64_t depth = at[0] * window.stride[0] - window.padding[0] + kd * window.dilation[0];
    if (depth < 0 || depth >= in.size[0]) continue;
    for (int64_t kh = 0; kh < window.kernel[1]; ++kh) {
      const int64_t row = at[1] * window.stride[1] - window.padding[1] + kh * window.dilation[1];
      if (row < 0 || row >= in.size[1]) continue;
      f(depth * in.stride[0] + row * in.stride[1], (depth * in.size[1] + row) * in.size[2]);
    }
  }
}

template <class Value>
struct Best {
  Value values[kBlock];
  Place<Value> places[kBlock];

  void clear(int64_t n) {
    std::fill(values, values + n, -std::numeric_limits<Value>::infinity());
    std::fill(places, places + n, Place<Value>(-1));
  }
};

// One window for n channels side by side.
template <class T, class Value>
void pool_channels(const T* x, const Spatial& in, const Window& window, const int64_t (&at)[2],
                   int64_t column, Best<Value>& best, int64_t n) {
  for_rows(in, window, at, [&](int64_t offset, int64_t place) {
    for (int64_t kw = 0; kw < window.kernel[2]; ++kw) {
      const int64_t at_column =
          column * window.stride[2] - window.padding[2] + kw * window.dilation[2];
      if (at_column < 0 || at_column >= in.size[2]) continue;
      keep_largest<T, Value>(x + offset + at_column * in.stride[2], 1,
                             static_cast<Place<Value>>(place + at_column), 0, best.values,
                             best.places, n);
    }
  });
}

// n windows of one channel side by side, from `column`.
template <class T, class Value>
void pool_columns(const T* x, const Spatial& in, const Window& window, const int64_t (&at)[2],
                  int64_t column, Best<Value>& best, int64_t n) {
  const int64_t stride = window.stride[2];
  for_rows(in, window, at, [&](int64_t offset, int64_t place) {
    for (int64_t kw = 0; kw < window.kernel[2]; ++kw) {
      const int64_t first = column * stride - window.padding[2] + kw * window.dilation[2];
      const int64_t skipped = first < 0 ? (-first + stride - 1) / stride : 0;
      const int64_t begin = first + skipped * stride;
      if (begin >= in.size[2]) continue;
      const int64_t count = std::min(n - skipped, (in.size[2] - 1 - begin) / stride + 1);
      if (count <= 0) continue;
      keep_largest<T, Value>(x + offset + begin * in.stride[2], stride * in.stride[2],
                             static_cast<Place<Value>>(place + begin),
                             static_cast<Place<Value>>(stride), best.values + skipped,
                             best.places + skipped, count);
    }
  });
}

// n of the best, `y_step` and `index_step` elements apart.
template <class T, class Value>
void store(const Best<Value>& best, T* y, int64_t y_step, int64_t* index, int64_t index_step,
           int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    y[i * y_step] = static_cast<T>(best.values[i]);
    index[i * index_step] = static_cast<int64_t>(best.places[i]);
  }
}

template <class T>
void max_pool_of(const View& x, const WindowOptions& options, const View& y, const View& index) {
  using Value = typename ComputeType<T>::type;
  const Spatial in(x), out(y), places(index);
  const Window window(options);
  // Channels that lie side by side are taken together, else windows of a row.
  const bool by_channels = x.strides[1] == 1 && x.shape[1] > 1;
  const int64_t block = by_channels ? std::min(x.shape[1], kBlock) : 1;
  const int64_t blocks = (x.shape[1] + block - 1) / block;
  const int64_t rows = out.size[0] * out.size[1];
  const int64_t work = out.size[2] * block * window.kernel[0] * window.kernel[1] * window.kernel[2];
  const auto pool_row = [&](int64_t task, Best<Value>& best) {
    const int64_t image = task / rows / blocks, channel = task / rows % blocks * block;
    const int64_t at[2] = {task % rows / out.size[1], task % out.size[1]};
    const auto start = [&](const View& view, const Spatial& spatial) {
      return image * view.strides[0] + channel * view.strides[1] + at[0] * spatial.stride[0] +
             at[1] * spatial.stride[1];
    };
    const T* from = x.as<T>() + image * x.strides[0] + channel * x.strides[1];
    T* to = y.as<T>() + start(y, out);
    int64_t* to_places = index.as<int64_t>() + start(index, places);
    for (int64_t column = 0; column < out.size[2]; column += by_channels ? 1 : kBlock) {
      const int64_t n = by_channels ? std::min(block, x.shape[1] - channel)
                                    : std::min(kBlock, out.size[2] - column);
      best.clear(n);
      if (by_channels) {
        pool_channels<T, Value>(from, in, window, at, column, best, n);
      } else {
        pool_columns<T, Value>(from, in, window, at, column, best, n);
      }
      store(best, to + column * out.stride[2], by_channels ? y.strides[1] : out.stride[2],
            to_places + column * places.stride[2],
            by_channels ? index.strides[1] : places.stride[2], n);
    }
  };
  parallel_for(x.shape[0] * blocks * rows, std::max<int64_t>(1, kGrain / work),
               [&](int64_t begin, int64_t end) {
                 Best<Value> best;
                 for (int64_t task = begin; task < end; ++task) pool_row(task, best);
               });
}

// One task is a block of channels of an image: nobody else writes there.
template <class T>
void max_pool_backward_of(const View& dy, const View& index, const View& dx) {
  using Value = typename ComputeType<T>::type;
  const Spatial from(dy), places(index), to(dx);
  const int64_t channels = dx.shape[1];
  const int64_t block = dx.strides[1] == 1 ? std::min(channels, kBlock) : 1;
  const int64_t blocks = (channels + block - 1) / block;
  const int64_t rows = from.size[0] * from.size[1];
  const bool dense = to.stride[1] == to.stride[2] * to.size[2] &&
                     (to.size[0] == 1 || to.stride[0] == to.stride[1] * to.size[1]);
  const auto offset = [&](int64_t place) {
    if (dense) return place * to.stride[2];
    const int64_t row = place / to.size[2];
    return row / to.size[1] * to.stride[0] + row % to.size[1] * to.stride[1] +
           place % to.size[2] * to.stride[2];
  };
  const auto spread = [&](int64_t image, int64_t first, int64_t n) {
    const auto begin = [&](const View& view) {
      return image * view.strides[0] + first * view.strides[1];
    };
    T* const values = dx.as<T>() + begin(dx);
    const int64_t elements = to.size[0] * to.size[1] * to.size[2];
    for (int64_t place = 0; place < elements; ++place) {
      for (int64_t c = 0; c < n; ++c) values[offset(place) + c * dx.strides[1]] = T(0);
    }
    for (int64_t window = 0; window < rows * from.size[2]; ++window) {
      const int64_t row = window / from.size[2], column = window % from.size[2];
      const auto at = [&](const View& view, const Spatial& spatial) {
        return begin(view) + row / from.size[1] * spatial.stride[0] +
               row % from.size[1] * spatial.stride[1] + column * spatial.stride[2];
      };
      const T* gradient = dy.as<T>() + at(dy, from);
      const int64_t* place = index.as<int64_t>() + at(index, places);
      for (int64_t c = 0; c < n; ++c) {
        if (place[c * index.strides[1]] < 0) continue;
        T& value = values[offset(place[c * index.strides[1]]) + c * dx.strides[1]];
        value = static_cast<T>(static_cast<Value>(value) +
                               static_cast<Value>(gradient[c * dy.strides[1]]));
      }
    }
  };
  const int64_t work = block * (rows * from.size[2] + to.size[0] * to.size[1] * to.size[2]);
  parallel_for(dx.shape[0] * blocks, std::max<int64_t>(1, kGrain / work),
               [&](int64_t begin, int64_t end) {
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t first = task % blocks * block;
                   spread(task / blocks, first, std::min(block, channels - first));
                 }
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

void max_pool_backward(const View& dy, const View& index, const View& dx) {
  if (dx.elements() == 0) return;
  with_float(dx.dtype, [&]<class T>(Type<T>) { max_pool_backward_of<T>(dy, index, dx); });
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
