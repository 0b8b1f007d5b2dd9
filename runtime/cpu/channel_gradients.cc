#include <algorithm>

#include "lockstep/runtime/cpu/channel_runs.h"
#include "lockstep/runtime/cpu/channels.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::cpu {
namespace {

// A gradient and its gate, whose output has the gradient's form; what is let through is kept in
// `gated`, of that form too, where that has data.
struct Upstream {
  View dy;
  ChannelGate gate;
  View gated = {};

  bool is_gated() const { return gate.scale.data != nullptr || gate.output.data != nullptr; }
};

// What the gate lets through, part by part, of at most `most` values.
template <class T>
class Gradient {
 public:
  Gradient(const Loops& loops, const Upstream& upstream, int64_t most)
      : loops_(loops.of<T>().channels),
        upstream_(upstream),
        dy_(loops, upstream.dy, most),
        output_(loops, upstream.gate.output, most),
        gated_(loops, upstream.gated, most),
        own_(upstream.is_gated() && upstream.gated.data == nullptr ? most : 0) {}

  // `x` are the same n values of x, from `at` on in plane i.
  const T* plane(int64_t i, int64_t at, int64_t n, const T* x) const {
    const auto place = [&](const View& view) {
      return view.data == nullptr ? 0 : plane_offset(view, i) + at;
    };
    const T* dy = dy_.read(place(upstream_.dy), n);
    return through(dy, place(upstream_.gate.output), place(upstream_.gated), n, [&](T* g) {
      const int64_t c = i % upstream_.dy.shape[1];
      loops_.gate(dy, x, scale()[c], shift()[c], g, n);
    });
  }
  const T* pixels(int64_t pixel, int64_t n, const T* x) const {
    const int64_t channels = upstream_.dy.shape[1], at = pixel * channels, size = n * channels;
    const T* dy = dy_.read(at, size);
    return through(dy, at, at, size,
                   [&](T* g) { loops_.gate_pixels(dy, x, scale(), shift(), g, n, channels); });
  }

 private:
  const T* scale() const { return upstream_.gate.scale.as<T>(); }
  const T* shift() const { return upstream_.gate.shift.as<T>(); }

  template <class GateByChannel>
  const T* through(const T* dy, int64_t output_at, int64_t gated_at, int64_t n,
                   const GateByChannel& gate_by_channel) const {
    if (!upstream_.is_gated()) return dy;
    const bool kept = upstream_.gated.data != nullptr;
    T* g = kept ? gated_.write(gated_at) : own_.get();
    if (upstream_.gate.output.data != nullptr) {
      loops_.gate_by_output(dy, output_.read(output_at, n), g, n);
    } else {
      gate_by_channel(g);
    }
    if (kept) gated_.done(gated_at, n);
    return g;
  }

  const ChannelLoops<T>& loops_;
  const Upstream& upstream_;
  Runs<T> dy_, output_, gated_;
  Scratch<T> own_;
};

template <class T>
void plane_gradient_sums(const Loops& loops, const Upstream& upstream, const View& x,
                         const View& mean, const View& sum, const View& product_sum) {
  const int64_t batch = x.shape[0], channels = x.shape[1], inner = x.shape[2];
  const Scratch<double> sums(2 * batch * channels);
  parallel_for(batch * channels, plane_grain(x), [&](int64_t begin, int64_t end) {
    const Runs<T> in(loops, x, kPart);
    const Gradient<T> gradient(loops, upstream, kPart);
    for (int64_t i = begin; i < end; ++i) {
      double total = 0, products = 0;
      for (int64_t at = 0; at < inner; at += kPart) {
        const int64_t n = std::min(kPart, inner - at);
        const T* values = in.read(plane_offset(x, i) + at, n);
        const T* g = gradient.plane(i, at, n, values);
        total += loops.of<T>().rows.sum(g, n);
        products += loops.of<T>().channels.centered_dot(g, values, mean.as<T>()[i % channels], n);
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
void pixel_gradient_sums(const Loops& loops, const Upstream& upstream, const View& x,
                         const View& mean, const View& sum, const View& product_sum) {
  const PixelCut cut(x);
  const int64_t channels = cut.channels;
  const Scratch<double> sums(2 * cut.runs * channels);
  parallel_for(cut.runs, 1, [&](int64_t begin, int64_t end) {
    const Runs<T> in(loops, x, cut.part * channels);
    const Gradient<T> gradient(loops, upstream, cut.part * channels);
    const Scratch<T> part(2 * channels);
    for (int64_t i = begin; i < end; ++i) {
      double* total = &sums[2 * i * channels];
      std::fill(total, total + 2 * channels, 0.0);
      cut.for_each_part(i, [&](int64_t pixel, int64_t n) {
        std::fill(part.get(), part.get() + 2 * channels, T(0));
        const T* values = in.read(pixel * channels, n * channels);
        loops.of<T>().channels.add_gradients(gradient.pixels(pixel, n, values), values,
                                             mean.as<T>(), part.get(), part.get() + channels, n,
                                             channels);
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

struct InputGradient {
  View x, scale, slope, shift, dx;

  bool sloped() const { return slope.data != nullptr; }
};

template <class T>
void plane_input_gradient(const Loops& loops, const Upstream& upstream, const InputGradient& to) {
  const View& x = to.x;
  const int64_t channels = x.shape[1], inner = x.shape[2];
  const auto& affine = loops.of<T>().channels.affine;
  parallel_for(x.shape[0] * channels, plane_grain(x), [&](int64_t begin, int64_t end) {
    const Runs<T> in(loops, x, kPart), out(loops, to.dx, kPart);
    const Gradient<T> gradient(loops, upstream, kPart);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t c = i % channels;
      const T scale = to.scale.as<T>()[c];
      for (int64_t at = 0; at < inner; at += kPart) {
        const int64_t n = std::min(kPart, inner - at), place = plane_offset(to.dx, i) + at;
        const T* values = in.read(plane_offset(x, i) + at, n);
        const T* g = gradient.plane(i, at, n, values);
        if (to.sloped()) {
          affine(values, to.slope.as<T>()[c], to.shift.as<T>()[c], g, scale, out.write(place), n);
        } else {
          affine(g, scale, T(0), nullptr, T(0), out.write(place), n);
        }
        out.done(place, n);
      }
    }
  });
}

template <class T>
void pixel_input_gradient(const Loops& loops, const Upstream& upstream, const InputGradient& to) {
  const PixelCut cut(to.x);
  const int64_t channels = cut.channels;
  const auto& affine = loops.of<T>().channels.affine_pixels;
  parallel_for(cut.runs, 1, [&](int64_t begin, int64_t end) {
    const int64_t most = cut.part * channels;
    const Runs<T> in(loops, to.x, most), out(loops, to.dx, most);
    const Gradient<T> gradient(loops, upstream, most);
    const T* scale = to.scale.as<T>();
    for (int64_t i = begin; i < end; ++i) {
      cut.for_each_part(i, [&](int64_t pixel, int64_t n) {
        const int64_t at = pixel * channels, size = n * channels;
        const T* values = in.read(at, size);
        const T* g = gradient.pixels(pixel, n, values);
        if (to.sloped()) {
          affine(values, to.slope.as<T>(), to.shift.as<T>(), g, scale, out.write(at), n, channels);
        } else {
          affine(g, scale, nullptr, nullptr, nullptr, out.write(at), n, channels);
        }
        out.done(at, size);
      });
    }
  });
}

}  // namespace

void channel_gradient_sums(const Loops& loops, const View& dy, const View& x, const View& mean,
                           const ChannelGate& gate, const View& gated, const View& sum,
                           const View& product_sum) {
  if (x.elements() == 0) {
    fill(loops, sum, 0);
    return fill(loops, product_sum, 0);
  }
  const bool pixels = prefers_pixels(x);
  with_row_type(x.dtype, [&]<class T>(T) {
    const Form<T> from(loops, dy, pixels), in(loops, x, pixels), output(loops, gate.output, pixels),
        kept(loops, gated, pixels, false);
    const Upstream upstream{from.view(), {gate.scale, gate.shift, output.view()}, kept.view()};
    (pixels ? pixel_gradient_sums<T> : plane_gradient_sums<T>)(loops, upstream, in.view(), mean,
                                                               sum, product_sum);
    if (gated.data == nullptr) return;
    if (upstream.is_gated()) {
      kept.write_back();
    } else {
      copy(loops, dy, gated);
    }
  });
}

void channel_input_gradient(const Loops& loops, const View& dy, const View& x, const View& scale,
                            const ChannelGate& gate, const View& slope, const View& shift,
                            const View& dx) {
  if (x.elements() == 0) return;
  const bool pixels = prefers_pixels(x);
  with_row_type(x.dtype, [&]<class T>(T) {
    const Form<T> from(loops, dy, pixels), in(loops, x, pixels), out(loops, dx, pixels, false);
    const Upstream upstream{from.view(), {gate.scale, gate.shift}};
    const InputGradient to{in.view(), scale, slope, shift, out.view()};
    (pixels ? pixel_input_gradient<T> : plane_input_gradient<T>)(loops, upstream, to);
    out.write_back();
  });
}

}  // namespace lockstep::cpu
