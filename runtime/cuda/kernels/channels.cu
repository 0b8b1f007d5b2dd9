#include "lockstep/runtime/cuda/kernels/channels.h"

#include "lockstep/runtime/cuda/kernels/channels_access.h"
#include "lockstep/runtime/cuda/kernels/dimensions.h"
#include "lockstep/runtime/cuda/kernels/elements.h"

namespace lockstep::cuda {
namespace {

// What is computed of a and b of each place and of numbers of its channel. Both multiply and add in
// the same way, so that the gate closes where y was zero (but for what 16 bits rounded to zero).

struct AffineOf {                       // a: x, b: the residual
  static constexpr int kConstants = 2;  // scale, shift
  bool relu;

  template <class C>
  LOCKSTEP_HD C operator()(C x, C residual, const C (&of)[kConstants]) const {
    const C y = x * of[0] + of[1] + residual;
    return relu && y < C(0) ? C(0) : y;
  }
};

struct InputGradientOf {                // a: dy, b: x
  static constexpr int kConstants = 5;  // scale, slope, shift, and the gate's scale and shift
  bool gated, sloped;

  template <class C>
  LOCKSTEP_HD C operator()(C dy, C x, const C (&of)[kConstants]) const {
    const C g = gated && x * of[3] + of[4] <= C(0) ? C(0) : dy;
    return sloped ? g * of[0] + (x * of[1] + of[2]) : g * of[0];
  }
};

// Operands of the layout: out, a, b, and the place of the channel. b and numbers that are absent
// count as 0. Of kWide neighbours the channels lie `channel_step` (0 or 1) apart.
template <class Map, class C, int kWide>
struct MapBody {
  static constexpr int kThreads = kElementThreads;
  static constexpr bool kCooperative = false;
  Map map;
  Operand out, a, b;
  const C* numbers[Map::kConstants];
  int channel_step;
  uint32_t count;
  Strided<4> layout;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    if constexpr (kWide == kPack) {
      switch (out.dtype) {
        case DType::bf16: return all<BFloat16>(t);
        case DType::f16: return all<Float16>(t);
        default: return all<float>(t);
      }
    } else {
      all<C>(t);
    }
  }

 private:
  // Numbers of the channel of the place before: often those of the next one too.
  struct Channel {
    int64_t place = -1;
    C of[kWide][Map::kConstants] = {};
  };

  template <class T>
  LOCKSTEP_DEVICE void all(const Thread& t) const {
    constexpr int kAhead = as_many_bytes<T>(2);  // places that are on their way at once
    Channel channel;
    const auto step = static_cast<uint32_t>(t.blocks()) * kThreads;
    uint32_t i = static_cast<uint32_t>(t.block()) * kThreads + t.index();
    for (; i + (kAhead - 1) * step < count; i += kAhead * step) some<T, kAhead>(i, step, channel);
    for (; i < count; i += step) some<T, 1>(i, step, channel);
  }
  template <class T, int n>
  LOCKSTEP_DEVICE void some(uint32_t index, uint32_t step, Channel& channel) const {
    int64_t at[n][4];
    C values[n][kWide], others[n][kWide] = {};
    for (int i = 0; i < n; ++i) {
      layout.offsets(index + i * step, at[i]);
      read_channels<T>(a, at[i][1], values[i]);
      if (b.data != nullptr) read_channels<T>(b, at[i][2], others[i]);
    }
    for (int i = 0; i < n; ++i) {
      look_up(at[i][3], channel);
      for (int j = 0; j < kWide; ++j) {
        values[i][j] = map(values[i][j], others[i][j], channel.of[j]);
      }
      write_channels<T>(out, at[i][0], values[i]);
    }
  }
  LOCKSTEP_DEVICE void look_up(int64_t place, Channel& channel) const {
    if (place == channel.place) return;
    channel.place = place;
    for (int k = 0; k < Map::kConstants; ++k) {
      if (numbers[k] == nullptr) continue;
      if constexpr (kWide == kPack) {
        if (channel_step == 1) {
          C values[kWide];
          load_pack(numbers[k], dtype_of<C>, place, values);
          for (int j = 0; j < kWide; ++j) channel.of[j][k] = values[j];
          continue;
        }
      }
      const C value = numbers[k][place];
      for (int j = 0; j < kWide; ++j) channel.of[j][k] = value;
    }
  }
};

// Views of out, a, b and of the first of the numbers.
template <class Map>
struct Mapped {
  Map map;
  bool has_b;
  const View* numbers[Map::kConstants];  // of the channels; the first is there

  template <class C>
  int64_t first_channel(const View& channel) const {
    const View& whole = *numbers[0];
    return channel.as<C>() - whole.as<C>();
  }

  template <class C, int kWide>
  void launch_on(const View (&views)[4], int channel_step, Queue& queue) const {
    const View* const operands[] = {&views[0], &views[1], &views[2], &views[3]};
    const int64_t count = views[0].elements();
    MapBody<Map, C, kWide> body{map,
                                Operand(views[0]),
                                Operand(views[1]),
                                has_b ? Operand(views[2]) : Operand(),
                                {},
                                channel_step,
                                static_cast<uint32_t>(count),
                                Strided<4>(operands)};
    for (int k = 0; k < Map::kConstants; ++k) {
      const View& of = *numbers[k];
      body.numbers[k] = of.data == nullptr ? nullptr : of.as<C>() + first_channel<C>(views[3]);
    }
    launch(body, {.blocks = blocks_for(count, queue)}, queue);
  }

  void part(const View (&whole)[4], Queue& queue) const {
    View views[] = {whole[0], whole[1], whole[2], whole[3]};
    sort_dimensions(views);
    if (views[0].dtype == DType::f64) return launch_on<double, 1>(views, 0, queue);
    bool packs = true;
    for (int i = 0; i < 3; ++i) {
      packs &= has_packs(views[i], kPack) && views[i].dtype == views[0].dtype;
    }
    const int channel_step = packs ? static_cast<int>(views[3].strides[views[3].rank - 1]) : 0;
    for (const View* view : numbers) packs &= channel_step == 0 || is_aligned(*view);
    if (!packs || (channel_step == 1 && first_channel<float>(views[3]) % kPack != 0)) {
      return launch_on<float, 1>(views, 0, queue);
    }
    for (View& view : views) view = first_of_packs(view, kPack);
    launch_on<float, kPack>(views, channel_step, queue);
  }
};

template <class Map>
void map_channels(const Mapped<Map>& mapped, const View& out, const View& a, const View& b,
                  Queue& queue) {
  if (out.elements() == 0) return;
  View channel = out;
  channel.data = mapped.numbers[0]->data;
  channel.dtype = mapped.numbers[0]->dtype;
  channel.strides[0] = channel.strides[2] = 0;
  channel.strides[1] = 1;
  const View views[] = {out, a, mapped.has_b ? b : a, channel};
  for_parts(views, [&](const View(&part)[4]) { mapped.part(part, queue); });
}

}  // namespace

void channel_affine(const View& x, const View& scale, const View& shift, const View& residual,
                    bool relu, const View& y, Queue& queue) {
  const bool has_residual = residual.data != nullptr;
  map_channels(Mapped<AffineOf>{{relu}, has_residual, {&scale, &shift}}, y, x, residual, queue);
}

void channel_input_gradient(const View& dy, const View& x, const View& scale,
                            const ChannelGate& gate, const View& slope, const View& shift,
                            const View& dx, Queue& queue) {
  const bool gated = gate.scale.data != nullptr, sloped = slope.data != nullptr;
  map_channels(
      Mapped<InputGradientOf>{
          {gated, sloped}, gated || sloped, {&scale, &slope, &shift, &gate.scale, &gate.shift}},
      dx, dy, x, queue);
}

}  // namespace lockstep::cuda
