#include "lockstep/runtime/cpu/channels.h"

#include <algorithm>

#include "lockstep/runtime/cpu/channel_runs.h"
#include "lockstep/runtime/math/channels.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::cpu {
namespace {

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
                  const View& residual, bool relu, const View& y) {
  const int64_t channels = x.shape[1], inner = x.shape[2];
  parallel_for(x.shape[0] * channels, plane_grain(x), [&](int64_t begin, int64_t end) {
    const Runs<T> in(loops, x, kPart), added(loops, residual, kPart), out(loops, y, kPart);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t c = i % channels;
      for (int64_t at = 0; at < inner; at += kPart) {
        const int64_t n = std::min(kPart, inner - at);
        const int64_t to = plane_offset(y, i) + at;
        T* values = out.write(to);
        loops.of<T>().channels.affine(
            in.read(plane_offset(x, i) + at, n), scale.as<T>()[c], shift.as<T>()[c],
            added.read(residual.data == nullptr ? 0 : plane_offset(residual, i) + at, n), T(1),
            values, n);
        if (relu) loops.of<T>().channels.relu(values, n);
        out.done(to, n);
      }
    }
  });
}

template <class T>
void pixel_affine(const Loops& loops, const View& x, const View& scale, const View& shift,
                  const View& residual, bool relu, const View& y) {
  const PixelCut cut(x);
  const int64_t channels = cut.channels;
  parallel_for(cut.runs, 1, [&](int64_t begin, int64_t end) {
    const int64_t most = cut.part * channels;
    const Runs<T> in(loops, x, most), added(loops, residual, most), out(loops, y, most);
    for (int64_t i = begin; i < end; ++i) {
      cut.for_each_part(i, [&](int64_t pixel, int64_t n) {
        const int64_t at = pixel * channels, size = n * channels;
        T* values = out.write(at);
        loops.of<T>().channels.affine_pixels(in.read(at, size), scale.as<T>(), shift.as<T>(),
                                             added.read(at, size), nullptr, values, n, channels);
        if (relu) loops.of<T>().channels.relu(values, size);
        out.done(at, size);
      });
    }
  });
}

// [channels] of any floating dtype, as doubles.
double value_or(double otherwise, const View& of, int64_t channel) {
  if (of.data == nullptr) return otherwise;
  switch (of.dtype) {
    case DType::f64: return of.as<double>()[channel];
    case DType::bf16: return static_cast<float>(of.as<BFloat16>()[channel]);
    case DType::f16: return static_cast<float>(of.as<Float16>()[channel]);
    default: return of.as<float>()[channel];
  }
}

void set_value(const View& to, int64_t channel, double value) {
  if (to.data == nullptr) return;
  const auto single = static_cast<float>(value);
  switch (to.dtype) {
    case DType::f64: to.as<double>()[channel] = value; break;
    case DType::bf16: to.as<BFloat16>()[channel] = BFloat16(single); break;
    case DType::f16: to.as<Float16>()[channel] = Float16(single); break;
    default: to.as<float>()[channel] = single;
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

void channel_norm(const View& mean, const View& variance, const ChannelNorm& norm) {
  const auto move = [&](const View& running, int64_t i, double value) {
    set_value(running, i, math::moved_towards(value_or(0, running, i), value, norm.momentum));
  };
  with_row_type(mean.dtype, [&]<class T>(T) {
    for (int64_t i = 0; i < mean.elements(); ++i) {
      const T average = mean.as<T>()[i], spread = variance.as<T>()[i];
      const math::NormOfChannel<T> of(average, spread, value_or(1, norm.weight, i),
                                      value_or(0, norm.bias, i), norm.epsilon);
      norm.inverse.as<T>()[i] = of.inverse;
      norm.scale.as<T>()[i] = of.scale;
      norm.shift.as<T>()[i] = of.shift;
      move(norm.running_mean, i, average);
      move(norm.running_variance, i, spread * norm.unbiased);
    }
  });
}

void channel_norm_backward(const View& mean, const View& inverse, const View& scale,
                           const View& sum, const View& product_sum, double share,
                           const View& slope, const View& shift, const View& dweight) {
  with_row_type(mean.dtype, [&]<class T>(T) {
    for (int64_t i = 0; i < mean.elements(); ++i) {
      const double products = product_sum.as<T>()[i], deviation = inverse.as<T>()[i];
      const math::SlopeOfChannel<T> through(mean.as<T>()[i], deviation, scale.as<T>()[i],
                                            sum.as<T>()[i], products, share);
      slope.as<T>()[i] = through.slope;
      shift.as<T>()[i] = through.shift;
      set_value(dweight, i, products * deviation);
    }
  });
}

void channel_affine(const Loops& loops, const View& x, const View& scale, const View& shift,
                    const View& residual, bool relu, const View& y) {
  if (x.elements() == 0) return;
  const bool pixels = prefers_pixels(x);
  with_row_type(x.dtype, [&]<class T>(T) {
    const Form<T> in(loops, x, pixels), added(loops, residual, pixels),
        out(loops, y, pixels, false);
    (pixels ? pixel_affine<T> : plane_affine<T>)(loops, in.view(), scale, shift, added.view(), relu,
                                                 out.view());
    out.write_back();
  });
}

}  // namespace lockstep::cpu
