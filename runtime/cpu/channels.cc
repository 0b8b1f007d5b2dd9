#include "lockstep/runtime/cpu/channels.h"

#include <algorithm>
#include <optional>

#include "lockstep/runtime/cpu/convert.h"
#include "lockstep/runtime/cpu/row_access.h"
#include "lockstep/runtime/cpu/scratch.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::cpu {
namespace {

// Values of one channel, or of whole pixels, that are worked on while they lie in the first-level
// cache; their sums are carried in T, those of the parts in double.
constexpr int64_t kPart = 4096;
// Pixels are summed in so many runs at the most, whatever the number of threads.
constexpr int64_t kPixelRuns = 64;

// Planes: the inner values of a channel lie side by side. Pixels: all channels of one place do, one
// place after the other.
bool is_planes(const View& x) { return x.shape[2] == 1 || x.strides[2] == 1; }

bool is_pixels(const View& x) {
  const int64_t channels = x.shape[1], inner = x.shape[2];
  return (channels == 1 || x.strides[1] == 1) && (inner == 1 || x.strides[2] == channels) &&
         (x.shape[0] == 1 || x.strides[0] == channels * inner);
}

// A view in one of the two forms: itself where it has it, else copied to it.
template <class T>
class Form {
 public:
  Form(const Loops& loops, const View& x, bool pixels, bool keep = true) : view_(x), loops_(loops) {
    if (x.data == nullptr || (pixels ? is_pixels(x) : is_planes(x))) return;
    original_ = x;
    View dense = x;
    if (pixels) {
      std::swap(dense.shape[1], dense.shape[2]);
      std::swap(dense.strides[1], dense.strides[2]);
    }
    memory_.emplace(dense.elements());
    int64_t stride = 1;
    for (int i = 2; i >= 0; --i) {
      dense.strides[i] = stride;
      stride *= dense.shape[i];
    }
    dense.data = memory_->get();
    dense.dtype = dtype_of<T>;
    if (pixels) {
      std::swap(dense.shape[1], dense.shape[2]);
      std::swap(dense.strides[1], dense.strides[2]);
    }
    view_ = dense;
    if (keep) copy(loops, x, view_);
  }

  const View& view() const { return view_; }
  void write_back() const {
    if (memory_) copy(loops_, view_, original_);
  }

 private:
  View view_, original_;
  const Loops& loops_;
  std::optional<Scratch<T>> memory_;
};

// Runs of a view's memory as T: in place where they are T, else through scratch for `most` values.
template <class T>
class Runs {
 public:
  Runs(const Loops& loops, const View& view, int64_t most)
      : loops_(loops),
        view_(view),
        direct_(view.dtype == dtype_of<T>),
        staged_(direct_ || view.data == nullptr ? 0 : most) {}

  // Null where the view has no data.
  const T* read(int64_t offset, int64_t n) const {
    if (view_.data == nullptr) return nullptr;
    if (direct_) return view_.as<T>() + offset;
    convert(loops_, address(offset), view_.dtype, 1, staged_.get(), dtype_of<T>, 1, n);
    return staged_.get();
  }
  T* write(int64_t offset) const { return direct_ ? view_.as<T>() + offset : staged_.get(); }
  void done(int64_t offset, int64_t n) const {
    if (direct_) return;
    convert(loops_, staged_.get(), dtype_of<T>, 1, address(offset), view_.dtype, 1, n);
  }

 private:
  void* address(int64_t offset) const {
    return static_cast<char*>(view_.data) + offset * static_cast<int64_t>(size_of(view_.dtype));
  }

  const Loops& loops_;
  const View& view_;
  bool direct_;
  Scratch<T> staged_;
};

// Long planes first: a pixel of few channels has short vectors.
bool prefers_pixels(const View& x) {
  return is_pixels(x) && !(is_planes(x) && x.shape[2] >= 16 && x.shape[1] < x.shape[2]);
}

// Where plane `i` of batch * channels starts.
int64_t plane_offset(const View& x, int64_t i) {
  return i / x.shape[1] * x.strides[0] + i % x.shape[1] * x.strides[1];
}

int64_t plane_grain(const View& x) { return std::max<int64_t>(1, 4 * kPart / x.shape[2]); }

// How pixels are cut: runs are independent, parts of a run are worked on one after the other.
struct PixelCut {
  int64_t pixels, channels, part, run, runs;

  explicit PixelCut(const View& x)
      : pixels(x.shape[0] * x.shape[2]),
        channels(x.shape[1]),
        part(std::clamp<int64_t>(kPart / std::max<int64_t>(1, channels), 16, 64)),
        run(std::max(part * 8, (pixels + kPixelRuns - 1) / kPixelRuns)),
        runs((pixels + run - 1) / run) {}

  // Calls f(first pixel, pixels) for every part of a run.
  template <class F>
  void for_each_part(int64_t i, const F& f) const {
    const int64_t end = std::min(pixels, (i + 1) * run);
    for (int64_t at = i * run; at < end; at += part) f(at, std::min(part, end - at));
  }
};

// Mean and sum of squared deviations of `count` values; parts join by Chan, Golub & LeVeque (1983).
struct Moments {
  double count = 0, mean = 0, squares = 0;

  void join(double other_count, double other_mean, double other_squares) {
    const double total = count + other_count;
    const double delta = other_mean - mean;
    mean += delta * (other_count / total);
    squares += other_squares + delta * delta * (count * other_count / total);
    count = total;
  }
};

template <class T>
void write_moments(const Moments& m, const View& mean, const View& variance, int64_t channel) {
  mean.as<T>()[channel] = static_cast<T>(m.mean);
  variance.as<T>()[channel] = static_cast<T>(m.squares / m.count);
}

template <class T>
void plane_moments(const Loops& loops, const View& x, const View& mean, const View& variance) {
  const int64_t batch = x.shape[0], channels = x.shape[1], inner = x.shape[2];
  const Scratch<Moments> planes(batch * channels);
  parallel_for(batch * channels, plane_grain(x), [&](int64_t begin, int64_t end) {
    const Runs<T> runs(loops, x, kPart);
    for (int64_t i = begin; i < end; ++i) {
      Moments m;
      for (int64_t at = 0; at < inner; at += kPart) {
        const int64_t n = std::min(kPart, inner - at);
        const T* values = runs.read(plane_offset(x, i) + at, n);
        const double average = loops.of<T>().rows.sum(values, n) / static_cast<double>(n);
        m.join(static_cast<double>(n), average,
               loops.of<T>().channels.squared_deviations(values, static_cast<T>(average), n));
      }
      planes[i] = m;
    }
  });
  for (int64_t channel = 0; channel < channels; ++channel) {
    Moments total;
    for (int64_t i = 0; i < batch; ++i) {
      const Moments& m = planes[i * channels + channel];
      total.join(m.count, m.mean, m.squares);
    }
    write_moments<T>(total, mean, variance, channel);
  }
}

template <class T>
void pixel_moments(const Loops& loops, const View& x, const View& mean, const View& variance) {
  const PixelCut cut(x);
  const int64_t channels = cut.channels;
  const Scratch<Moments> sums(cut.runs * channels);
  parallel_for(cut.runs, 1, [&](int64_t begin, int64_t end) {
    const Runs<T> runs(loops, x, cut.part * channels);
    const Scratch<T> average(channels), squares(channels);
    for (int64_t i = begin; i < end; ++i) {
      Moments* total = &sums[i * channels];
      std::fill(total, total + channels, Moments());
      cut.for_each_part(i, [&](int64_t pixel, int64_t n) {
        const T* values = runs.read(pixel * channels, n * channels);
        std::fill(average.get(), average.get() + channels, T(0));
        std::fill(squares.get(), squares.get() + channels, T(0));
        loops.of<T>().channels.add_pixels(values, average.get(), n, channels);
        const T share = T(1) / static_cast<T>(n);
        for (int64_t c = 0; c < channels; ++c) average[c] *= share;
        loops.of<T>().channels.add_squared_deviations(values, average.get(), squares.get(), n,
                                                      channels);
        for (int64_t c = 0; c < channels; ++c) {
          total[c].join(static_cast<double>(n), static_cast<double>(average[c]),
                        static_cast<double>(squares[c]));
        }
      });
    }
  });
  for (int64_t channel = 0; channel < channels; ++channel) {
    Moments total;
    for (int64_t i = 0; i < cut.runs; ++i) {
      const Moments& m = sums[i * channels + channel];
      total.join(m.count, m.mean, m.squares);
    }
    write_moments<T>(total, mean, variance, channel);
  }
}

template <class T>
void plane_affine(const Loops& loops, const View& x, const View& scale, const View& shift,
                  const View& dy, const View& dy_scale, const View& y) {
  const int64_t channels = x.shape[1], inner = x.shape[2];
  parallel_for(x.shape[0] * channels, plane_grain(x), [&](int64_t begin, int64_t end) {
    const Runs<T> in(loops, x, kPart), upstream(loops, dy, kPart), out(loops, y, kPart);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t c = i % channels;
      const T slope = dy.data == nullptr ? T(0) : dy_scale.as<T>()[c];
      for (int64_t at = 0; at < inner; at += kPart) {
        const int64_t n = std::min(kPart, inner - at);
        const int64_t to = plane_offset(y, i) + at;
        loops.of<T>().channels.affine(
            in.read(plane_offset(x, i) + at, n), scale.as<T>()[c], shift.as<T>()[c],
            upstream.read(dy.data == nullptr ? 0 : plane_offset(dy, i) + at, n), slope,
            out.write(to), n);
        out.done(to, n);
      }
    }
  });
}

template <class T>
void pixel_affine(const Loops& loops, const View& x, const View& scale, const View& shift,
                  const View& dy, const View& dy_scale, const View& y) {
  const PixelCut cut(x);
  const int64_t channels = cut.channels;
  parallel_for(cut.runs, 1, [&](int64_t begin, int64_t end) {
    const int64_t most = cut.part * channels;
    const Runs<T> in(loops, x, most), upstream(loops, dy, most), out(loops, y, most);
    for (int64_t i = begin; i < end; ++i) {
      cut.for_each_part(i, [&](int64_t pixel, int64_t n) {
        const int64_t at = pixel * channels, size = n * channels;
        loops.of<T>().channels.affine_pixels(in.read(at, size), scale.as<T>(), shift.as<T>(),
                                             upstream.read(at, size), dy_scale.as<T>(),
                                             out.write(at), n, channels);
        out.done(at, size);
      });
    }
  });
}

template <class T>
void plane_gradient_sums(const Loops& loops, const View& dy, const View& x, const View& mean,
                         const View& sum, const View& product_sum) {
  const int64_t batch = x.shape[0], channels = x.shape[1], inner = x.shape[2];
  const Scratch<double> sums(2 * batch * channels);
  parallel_for(batch * channels, plane_grain(x), [&](int64_t begin, int64_t end) {
    const Runs<T> in(loops, x, kPart), upstream(loops, dy, kPart);
    for (int64_t i = begin; i < end; ++i) {
      double total = 0, products = 0;
      for (int64_t at = 0; at < inner; at += kPart) {
        const int64_t n = std::min(kPart, inner - at);
        const T* gradient = upstream.read(plane_offset(dy, i) + at, n);
        total += loops.of<T>().rows.sum(gradient, n);
        products += loops.of<T>().channels.centered_dot(
            gradient, in.read(plane_offset(x, i) + at, n), mean.as<T>()[i % channels], n);
      }
      sums[2 * i] = total;
      sums[2 * i + 1] = products;
    }
  });
  for (int64_t channel = 0; channel < channels; ++channel) {
    double total = 0, products = 0;
    for (int64_t i = 0; i < batch; ++i) {
      total += sums[2 * (i * channels + channel)];
      products += sums[2 * (i * channels + channel) + 1];
    }
    sum.as<T>()[channel] = static_cast<T>(total);
    product_sum.as<T>()[channel] = static_cast<T>(products);
  }
}

template <class T>
void pixel_gradient_sums(const Loops& loops, const View& dy, const View& x, const View& mean,
                         const View& sum, const View& product_sum) {
  const PixelCut cut(x);
  const int64_t channels = cut.channels;
  const Scratch<double> sums(2 * cut.runs * channels);
  parallel_for(cut.runs, 1, [&](int64_t begin, int64_t end) {
    const Runs<T> in(loops, x, cut.part * channels), upstream(loops, dy, cut.part * channels);
    const Scratch<T> part(2 * channels);
    for (int64_t i = begin; i < end; ++i) {
      double* total = &sums[2 * i * channels];
      std::fill(total, total + 2 * channels, 0.0);
      cut.for_each_part(i, [&](int64_t pixel, int64_t n) {
        std::fill(part.get(), part.get() + 2 * channels, T(0));
        loops.of<T>().channels.add_gradients(upstream.read(pixel * channels, n * channels),
                                             in.read(pixel * channels, n * channels), mean.as<T>(),
                                             part.get(), part.get() + channels, n, channels);
        loops.of<T>().rows.add_to_double(part.get(), total, 2 * channels);
      });
    }
  });
  for (int64_t channel = 0; channel < channels; ++channel) {
    double total = 0, products = 0;
    for (int64_t i = 0; i < cut.runs; ++i) {
      total += sums[2 * i * channels + channel];
      products += sums[(2 * i + 1) * channels + channel];
    }
    sum.as<T>()[channel] = static_cast<T>(total);
    product_sum.as<T>()[channel] = static_cast<T>(products);
  }
}

}  // namespace

void channel_moments(const Loops& loops, const View& x, const View& mean, const View& variance) {
  if (x.elements() == 0) {
    fill(loops, mean, 0);
    return fill(loops, variance, 0);
  }
  const bool pixels = prefers_pixels(x);
  with_row_type(x.dtype, [&]<class T>(T) {
    const Form<T> in(loops, x, pixels);
    (pixels ? pixel_moments<T> : plane_moments<T>)(loops, in.view(), mean, variance);
  });
}

void channel_affine(const Loops& loops, const View& x, const View& scale, const View& shift,
                    const View& dy, const View& dy_scale, const View& y) {
  if (x.elements() == 0) return;
  const bool pixels = prefers_pixels(x);
  with_row_type(x.dtype, [&]<class T>(T) {
    const Form<T> in(loops, x, pixels), upstream(loops, dy, pixels), out(loops, y, pixels, false);
    (pixels ? pixel_affine<T> : plane_affine<T>)(loops, in.view(), scale, shift, upstream.view(),
                                                 dy_scale, out.view());
    out.write_back();
  });
}

void channel_gradient_sums(const Loops& loops, const View& dy, const View& x, const View& mean,
                           const View& sum, const View& product_sum) {
  if (x.elements() == 0) {
    fill(loops, sum, 0);
    return fill(loops, product_sum, 0);
  }
  const bool pixels = prefers_pixels(x);
  with_row_type(x.dtype, [&]<class T>(T) {
    const Form<T> upstream(loops, dy, pixels), in(loops, x, pixels);
    (pixels ? pixel_gradient_sums<T> : plane_gradient_sums<T>)(loops, upstream.view(), in.view(),
                                                               mean, sum, product_sum);
  });
}

}  // namespace lockstep::cpu
