#include "lockstep/runtime/cuda/kernels/channels.h"
#include "lockstep/runtime/cuda/kernels/channels_access.h"
#include "lockstep/runtime/cuda/kernels/channels_bodies.h"
#include "lockstep/runtime/cuda/kernels/dimensions.h"
#include "lockstep/runtime/cuda/kernels/elementwise.h"
#include "lockstep/runtime/error.h"

namespace lockstep::cuda {
namespace {

constexpr int64_t kBlocks = 792;    // whole rounds of a large device, by two or three at a time
constexpr int64_t kFewestRows = 8;  // worth a thread

int64_t at_least_one(int64_t n) { return n < 1 ? 1 : n; }
int64_t quotient_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Whether the channels of all operands lie side by side: `elements` of them in packs.
template <int kOperands>
bool has_pixels(const View* const (&operands)[kOperands], int64_t elements) {
  for (const View* view : operands) {
    View pixels = *view;  // [batch, inner, channels]
    for (int64_t* of : {pixels.shape, pixels.strides}) std::swap(of[1], of[2]);
    if (elements > 1 && !has_packs(pixels, elements)) return false;
    if (pixels.shape[2] != 1 && pixels.strides[2] != 1) return false;
  }
  return true;
}

template <int kOperands>
bool has_plane_packs(const View* const (&operands)[kOperands]) {
  for (const View* view : operands) {
    if (!has_packs(*view, kPack)) return false;
  }
  return true;
}

template <int kOperands>
bool of_one_dtype(const View* const (&operands)[kOperands]) {
  for (const View* view : operands) {
    if (view->dtype != operands[0]->dtype) return false;
  }
  return true;
}

template <class Of, class C>
void join_runs(const Of& of, const Scratch& parts, int64_t runs, int64_t channels, Queue& queue) {
  using Body = JoinRunsBody<Of, C>;
  launch(
      Body{of, parts.as<ChannelPart<C>>(), static_cast<int>(runs), static_cast<uint32_t>(channels)},
      {.blocks = quotient_up(channels, kWarp), .shared_bytes = Body::kSharedBytes}, queue);
}

template <int kWide, class C, class Of>
void sum_pixels(const Of& of, const View* const (&operands)[Of::kViews], Queue& queue) {
  using Body = PixelsBody<Of, C, kWide>;
  const View& x = *operands[0];
  const int64_t columns = quotient_up(x.shape[1], kWide), rows = x.shape[0] * x.shape[2];
  int across = 1;
  while (across < kWarp && across < columns) across *= 2;
  const int64_t tiles = quotient_up(columns, across), step = Body::kThreads / across;
  const int64_t wanted = at_least_one(kBlocks / tiles);
  const int64_t run =
      quotient_up(at_least_one(quotient_up(rows, wanted)), step * kFewestRows) * step * kFewestRows;
  const int64_t runs = quotient_up(rows, run);
  const Scratch parts(queue, static_cast<size_t>(runs * x.shape[1]) * sizeof(ChannelPart<C>));
  Body body{of,
            {across, static_cast<uint32_t>(x.shape[1]), static_cast<uint32_t>(columns),
             static_cast<uint32_t>(rows), static_cast<uint32_t>(run)},
            Divisor(static_cast<uint32_t>(x.shape[2])),
            {},
            {},
            parts.as<ChannelPart<C>>()};
  for (int k = 0; k < Of::kViews; ++k) {
    body.batch_stride[k] = operands[k]->strides[0];
    body.inner_stride[k] = operands[k]->strides[2];
  }
  launch(body, {.blocks = runs, .blocks_y = tiles, .shared_bytes = Body::kSharedBytes}, queue);
  join_runs<Of, C>(of, parts, runs, x.shape[1], queue);
}

template <int kWide, class C, class Of>
void sum_planes(const Of& of, const View* const (&operands)[Of::kViews], Queue& queue) {
  using Body = PlanesBody<Of, C, kWide>;
  const View& x = *operands[0];
  const int64_t inner = x.shape[2] / kWide, units = x.shape[0] * inner;
  const int64_t wanted = at_least_one(kBlocks / x.shape[1]);
  const int64_t run =
      quotient_up(at_least_one(quotient_up(units, wanted)), Body::kThreads * kFewestRows) *
      Body::kThreads * kFewestRows;
  const int64_t runs = quotient_up(units, run);
  const Scratch parts(queue, static_cast<size_t>(runs * x.shape[1]) * sizeof(ChannelPart<C>));
  Body body{of,
            static_cast<uint32_t>(x.shape[1]),
            static_cast<uint32_t>(runs),
            static_cast<uint32_t>(units),
            static_cast<uint32_t>(run),
            Divisor(static_cast<uint32_t>(inner)),
            {},
            {},
            {},
            parts.as<ChannelPart<C>>()};
  for (int k = 0; k < Of::kViews; ++k) {
    body.batch_stride[k] = operands[k]->strides[0];
    body.channel_stride[k] = operands[k]->strides[1];
    body.unit_stride[k] = operands[k]->strides[2] * kWide;
  }
  launch(body, {.blocks = x.shape[1] * runs, .shared_bytes = Body::kSharedBytes}, queue);
  join_runs<Of, C>(of, parts, runs, x.shape[1], queue);
}

template <class C, class Of>
void sum_channels(const Of& of, const View* const (&operands)[Of::kViews], Queue& queue) {
  const int64_t pixels = operands[0]->shape[0] * operands[0]->shape[2];
  LOCKSTEP_CHECK(pixels < kMostElements, "statistics of channels of ", pixels, " elements each");
  if constexpr (std::is_same_v<C, float>) {
    const bool one_dtype = of_one_dtype(operands);
    if (one_dtype && has_pixels(operands, kPack)) return sum_pixels<kPack, C>(of, operands, queue);
    if (one_dtype && has_plane_packs(operands)) return sum_planes<kPack, C>(of, operands, queue);
  }
  if (has_pixels(operands, 1) && operands[0]->shape[1] > 1) {
    return sum_pixels<1, C>(of, operands, queue);
  }
  sum_planes<1, C>(of, operands, queue);
}

}  // namespace

void channel_moments(const View& x, const View& mean, const View& variance, Queue& queue) {
  if (x.elements() == 0) {
    fill(mean, 0, queue);
    return fill(variance, 0, queue);
  }
  const View* const operands[] = {&x};
  with_statistics_type(x.dtype, [&]<class C>(C) {
    sum_channels<C>(MomentsOf<C>{{Operand(x)}, mean.as<C>(), variance.as<C>()}, operands, queue);
  });
}

void channel_gradient_sums(const View& dy, const View& x, const View& mean, const ChannelGate& gate,
                           const View& gated, const View& sum, const View& product_sum,
                           Queue& queue) {
  if (x.elements() == 0) {
    fill(sum, 0, queue);
    return fill(product_sum, 0, queue);
  }
  // Where g is not kept its view is counted like dy's.
  const View& kept = gated.data == nullptr ? dy : gated;
  with_statistics_type(x.dtype, [&]<class C>(C) {
    const auto sums = [&]<GateBy kGate>(const auto&... views) {
      const View* const operands[] = {&views...};
      GradientSumsOf<C, kGate> of{{Operand(views)...}, mean.as<C>(),       sum.as<C>(),
                                  product_sum.as<C>(), gate.scale.as<C>(), gate.shift.as<C>()};
      if (of.kGated) of.views[of.kViews - 1].data = gated.data;
      sum_channels<C>(of, operands, queue);
    };
    if (gate.output.data != nullptr) {
      sums.template operator()<GateBy::output>(dy, x, gate.output, kept);
    } else if (gate.scale.data != nullptr) {
      sums.template operator()<GateBy::channel>(dy, x, kept);
    } else {
      sums.template operator()<GateBy::none>(dy, x);
      if (gated.data != nullptr) copy(dy, gated, queue);
    }
  });
}

}  // namespace lockstep::cuda
