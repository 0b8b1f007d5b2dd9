#include "lockstep/runtime/cuda/kernels/channels.h"

#include "lockstep/runtime/cuda/kernels/dimensions.h"
#include "lockstep/runtime/cuda/kernels/elements.h"
#include "lockstep/runtime/cuda/kernels/operand.h"

namespace lockstep::cuda {
namespace {

// y = x * scale + shift + dy * dy_scale. Operands of the layout: y, x, dy, and the place of the
// channel. Of kWide neighbours the channels lie `channel_step` (0 or 1) apart.
template <class C, int kWide>
struct AffineBody {
  Operand x, dy, y;
  const C* scale;
  const C* shift;
  const C* dy_scale;
  int channel_step;
  Strided<4> layout;

  LOCKSTEP_HD void one(uint32_t index) const {
    int64_t at[4];
    layout.offsets(index, at);
    C values[kWide], scales[kWide], shifts[kWide];
    read(x, at[1], values);
    constants(scale, at[3], scales);
    constants(shift, at[3], shifts);
    for (int i = 0; i < kWide; ++i) values[i] = values[i] * scales[i] + shifts[i];
    if (dy.data != nullptr) {
      C upstream[kWide];
      read(dy, at[2], upstream);
      constants(dy_scale, at[3], scales);
      for (int i = 0; i < kWide; ++i) values[i] += upstream[i] * scales[i];
    }
    if constexpr (kWide == kPack) {
      store_pack(y.data, y.dtype, at[0], values);
    } else {
      y.put<C>(at[0], values[0]);
    }
  }

 private:
  LOCKSTEP_HD static void read(const Operand& from, int64_t at, C (&out)[kWide]) {
    if constexpr (kWide == kPack) {
      load_pack(from.data, from.dtype, at, out);
    } else {
      out[0] = from.get<C>(at);
    }
  }
  LOCKSTEP_HD void constants(const C* of, int64_t channel, C (&out)[kWide]) const {
    if (kWide == kPack && channel_step == 1) {
      if constexpr (kWide == kPack) load_pack(of, dtype_of<C>, channel, out);
      return;
    }
    const C value = of[channel];
    for (C& one : out) one = value;
  }
};

struct Affine {
  const View& scale;
  const View& shift;
  const View& dy_scale;
};

// Of y, x, dy and the numbers of the channels: a view over `scale`.
template <class C, int kWide>
void affine_part(const View (&views)[4], const Affine& affine, bool has_dy, int channel_step,
                 Queue& queue) {
  const View* const operands[] = {&views[0], &views[1], &views[2], &views[3]};
  const int64_t first = views[3].as<C>() - affine.scale.as<C>();
  launch_elements(AffineBody<C, kWide>{Operand(views[1]), has_dy ? Operand(views[2]) : Operand(),
                                       Operand(views[0]), affine.scale.as<C>() + first,
                                       affine.shift.as<C>() + first,
                                       has_dy ? affine.dy_scale.as<C>() + first : nullptr,
                                       channel_step, Strided<4>(operands)},
                  views[0].elements(), queue);
}

void affine_of(const View (&part)[4], const Affine& affine, bool has_dy, Queue& queue) {
  View views[] = {part[0], part[1], part[2], part[3]};
  sort_dimensions(views);
  if (part[0].dtype == DType::f64) return affine_part<double, 1>(views, affine, has_dy, 0, queue);
  if (has_packs(views[0], kPack) && has_packs(views[1], kPack) && has_packs(views[2], kPack)) {
    const int channel_step = static_cast<int>(views[3].strides[views[3].rank - 1]);
    const bool on_a_boundary = channel_step == 0 || is_aligned(views[3]);
    if (on_a_boundary) {
      for (View& view : views) view = first_of_packs(view, kPack);
      return affine_part<float, kPack>(views, affine, has_dy, channel_step, queue);
    }
  }
  affine_part<float, 1>(views, affine, has_dy, 0, queue);
}

}  // namespace

void channel_affine(const View& x, const View& scale, const View& shift, const View& dy,
                    const View& dy_scale, const View& y, Queue& queue) {
  if (x.elements() == 0) return;
  const bool has_dy = dy.data != nullptr;
  View channel = y;
  channel.data = scale.data;
  channel.dtype = scale.dtype;
  channel.strides[0] = channel.strides[2] = 0;
  channel.strides[1] = 1;
  const View views[] = {y, x, has_dy ? dy : x, channel};
  for_parts(views, [&](const View(&part)[4]) {
    affine_of(part, {scale, shift, dy_scale}, has_dy, queue);
  });
}

}  // namespace lockstep::cuda
