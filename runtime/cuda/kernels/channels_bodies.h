#pragma once

#include <cstdint>

#include "lockstep/runtime/cuda/kernels/channels_access.h"
#include "lockstep/runtime/cuda/kernels/operand.h"
#include "lockstep/runtime/cuda/kernels/rows.h"
#include "lockstep/runtime/cuda/strided.h"

// Sums over batch and inner of each channel of [batch, channels, inner]. A block sums a run of a
// few channels' values, and a second kernel joins the runs in their order; how values are cut
// depends on shapes and strides alone. What is summed is read from the first kOperands of kViews
// views; the last view may be written.
namespace lockstep::cuda {

// What is known of some values of a channel.
template <class T>
struct ChannelPart {
  T count, first, second;
};

// Mean and sum of squared deviations, of groups in two passes; groups join by Chan, Golub & LeVeque
// (1983), "Algorithms for computing the sample variance".
template <class C>
struct MomentsOf {
  static constexpr int kOperands = 1, kViews = 1;
  static constexpr int kAhead = 4;  // packs of 16-bit values that are on their way at once
  static constexpr bool kGated = false;
  struct Constants {};    // of a channel
  Operand views[kViews];  // x
  C* mean;
  C* variance;

  LOCKSTEP_HD Constants constants(uint32_t) const { return {}; }

  // Adds n values to `count` that came before.
  template <int n>
  LOCKSTEP_HD static void add(const C (&values)[kOperands][n], const Constants&, C count, C* first,
                              C* second) {
    C sum = C(0);
    for (int i = 0; i < n; ++i) sum += values[0][i];
    const C average = sum * (C(1) / C(n));
    C squares = C(0);
    for (int i = 0; i < n; ++i) {
      const C deviation = values[0][i] - average;
      squares += deviation * deviation;
    }
    const C share = C(n) / (count + C(n)), delta = average - *first;
    *first += delta * share;
    *second += squares + delta * delta * (count * share);
  }
  template <class T>
  LOCKSTEP_HD static ChannelPart<T> join(const ChannelPart<T>& a, const ChannelPart<T>& b) {
    const T total = a.count + b.count;
    const T share = total == T(0) ? T(0) : b.count / total, delta = b.first - a.first;
    return {total, a.first + delta * share,
            a.second + b.second + delta * delta * (a.count * share)};
  }
  LOCKSTEP_HD void finish(uint32_t channel, const ChannelPart<double>& all) const {
    mean[channel] = static_cast<C>(all.first);
    variance[channel] = static_cast<C>(all.second / all.count);
  }
};

// What a ReLU's gradient is let through by: nothing in its way, x * scale + shift, or its output.
enum class GateBy { none, channel, output };

// The sums of g and of g * (x - mean), g what the gate lets through of dy.
template <class C, GateBy kGate>
struct GradientSumsOf {
  static constexpr int kOperands = kGate == GateBy::output ? 3 : 2;
  static constexpr bool kGated = kGate != GateBy::none;
  static constexpr int kViews = kOperands + (kGated ? 1 : 0);
  static constexpr int kAhead = kGate == GateBy::none ? 4 : 2;
  struct Constants {
    C mean, scale, shift;
  };
  Operand views[kViews];  // dy, x, the output; where g goes, which may have no data
  const C* mean;
  C* sum;
  C* product_sum;
  const C* scale;
  const C* shift;

  LOCKSTEP_HD Constants constants(uint32_t channel) const {
    if constexpr (kGate != GateBy::channel) return {mean[channel], C(0), C(0)};
    return {mean[channel], scale[channel], shift[channel]};
  }
  // g, of values of one place.
  LOCKSTEP_HD static C gate(const C (&values)[kOperands], const Constants& of) {
    if constexpr (kGate == GateBy::channel) {
      return values[1] * of.scale + of.shift <= C(0) ? C(0) : values[0];
    } else if constexpr (kGate == GateBy::output) {
      return values[2] <= C(0) ? C(0) : values[0];
    }
    return values[0];
  }

  template <int n>
  LOCKSTEP_HD static void add(const C (&values)[kOperands][n], const Constants& of, C, C* first,
                              C* second) {
    C sum = C(0), products = C(0);
    for (int i = 0; i < n; ++i) {
      sum += values[0][i];
      products += values[0][i] * (values[1][i] - of.mean);
    }
    *first += sum;
    *second += products;
  }
  template <class T>
  LOCKSTEP_HD static ChannelPart<T> join(const ChannelPart<T>& a, const ChannelPart<T>& b) {
    return {a.count + b.count, a.first + b.first, a.second + b.second};
  }
  LOCKSTEP_HD void finish(uint32_t channel, const ChannelPart<double>& all) const {
    sum[channel] = static_cast<C>(all.first);
    product_sum[channel] = static_cast<C>(all.second);
  }
};

template <class Of, class T>
struct JoinParts {
  LOCKSTEP_HD ChannelPart<T> operator()(const ChannelPart<T>& a, const ChannelPart<T>& b) const {
    return Of::join(a, b);
  }
};

// Values of n places of kWide channels each, of every operand, after the gate; `at` are the places
// in every view. Neighbours have constants of their own, or all `constants[0]`.
template <class T, class Of, class C, int n, int kWide, int kChannels>
LOCKSTEP_DEVICE void read_gated(const Of& of, const int64_t (&at)[n][Of::kViews],
                                const typename Of::Constants (&constants)[kChannels],
                                C (&values)[Of::kOperands][n][kWide]) {
  for (int i = 0; i < n; ++i) {
    for (int k = 0; k < Of::kOperands; ++k) read_channels<T>(of.views[k], at[i][k], values[k][i]);
  }
  if constexpr (Of::kGated) {
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < kWide; ++j) {
        C of_place[Of::kOperands];
        for (int k = 0; k < Of::kOperands; ++k) of_place[k] = values[k][i][j];
        values[0][i][j] = Of::gate(of_place, constants[kChannels == 1 ? 0 : j]);
      }
    }
    const Operand& gated = of.views[Of::kViews - 1];
    if (gated.data == nullptr) return;
    for (int i = 0; i < n; ++i) write_channels<T>(gated, at[i][Of::kViews - 1], values[0][i]);
  }
}

// How the threads of a block share out what lies channels-last: `across` of them take neighbouring
// columns (of kWide channels) of a row, the others the rows below. Rows are places of batch and
// inner.
struct PixelCut {
  int across;  // a power of two, at most kWarp
  uint32_t channels, columns;
  uint32_t rows, run;  // all, and of a block
};

template <class Of, class C, int kWide>
struct PixelsBody {
  static constexpr int kThreads = 256;
  static constexpr bool kCooperative = true;
  static constexpr int kSharedBytes = kThreads * kWide * static_cast<int>(sizeof(ChannelPart<C>));
  Of of;
  PixelCut cut;
  Divisor inner;
  int64_t batch_stride[Of::kViews], inner_stride[Of::kViews];
  ChannelPart<C>* parts;  // [runs, channels]

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const uint32_t column =
        static_cast<uint32_t>(t.block_y()) * cut.across + t.index() % cut.across;
    C count = C(0), first[kWide] = {}, second[kWide] = {};
    if (column < cut.columns) {
      if constexpr (kWide == kPack) {
        switch (of.views[0].dtype) {
          case DType::bf16: sum<BFloat16>(t, column, &count, first, second); break;
          case DType::f16: sum<Float16>(t, column, &count, first, second); break;
          default: sum<float>(t, column, &count, first, second);
        }
      } else {
        sum<C>(t, column, &count, first, second);
      }
    }
    auto* shared = t.shared<ChannelPart<C>>();
    for (int j = 0; j < kWide; ++j) {
      shared[j * kThreads + t.index()] = {count, first[j], second[j]};
    }
    for (int half = kThreads / 2; half >= cut.across; half /= 2) {
      t.sync();
      if (t.index() >= half) continue;
      for (int j = 0; j < kWide; ++j) {
        ChannelPart<C>& mine = shared[j * kThreads + t.index()];
        mine = Of::join(mine, shared[j * kThreads + t.index() + half]);
      }
    }
    if (t.index() >= cut.across || column >= cut.columns) return;
    for (int j = 0; j < kWide; ++j) {
      parts[int64_t{t.block()} * cut.channels + column * kWide + j] =
          shared[j * kThreads + t.index()];
    }
  }

 private:
  template <class T>
  LOCKSTEP_DEVICE void sum(const Thread& t, uint32_t column, C* count, C (&first)[kWide],
                           C (&second)[kWide]) const {
    constexpr int kAhead = as_many_bytes<T>(Of::kAhead);
    typename Of::Constants constants[kWide];
    for (int j = 0; j < kWide; ++j) constants[j] = of.constants(column * kWide + j);
    const uint32_t step = kThreads / cut.across;
    const uint32_t begin = static_cast<uint32_t>(t.block()) * cut.run;
    const uint32_t end = begin + cut.run < cut.rows ? begin + cut.run : cut.rows;
    uint32_t row = begin + t.index() / cut.across;
    for (; row + (kAhead - 1) * step < end; row += kAhead * step) {
      add<T, kAhead>(row, step, column, constants, count, first, second);
    }
    for (; row < end; row += step) add<T, 1>(row, step, column, constants, count, first, second);
  }
  template <class T, int n>
  LOCKSTEP_DEVICE void add(uint32_t row, uint32_t step, uint32_t column,
                           const typename Of::Constants (&constants)[kWide], C* count,
                           C (&first)[kWide], C (&second)[kWide]) const {
    int64_t at[n][Of::kViews];
    for (int i = 0; i < n; ++i) {
      const uint32_t image = inner.divide(row + i * step);
      const uint32_t place = row + i * step - image * inner.value;
      for (int k = 0; k < Of::kViews; ++k) {
        at[i][k] = image * batch_stride[k] + place * inner_stride[k] + column * kWide;
      }
    }
    C values[Of::kOperands][n][kWide];
    read_gated<T>(of, at, constants, values);
    for (int j = 0; j < kWide; ++j) {
      C of_channel[Of::kOperands][n];
      for (int k = 0; k < Of::kOperands; ++k) {
        for (int i = 0; i < n; ++i) of_channel[k][i] = values[k][i][j];
      }
      Of::add(of_channel, constants[j], *count, &first[j], &second[j]);
    }
    *count += C(n);
  }
};

// A block takes a run of one channel. Units are kWide neighbours of inner.
template <class Of, class C, int kWide>
struct PlanesBody {
  static constexpr int kThreads = 256;
  static constexpr bool kCooperative = true;
  static constexpr int kSharedBytes = across_block_bytes<ChannelPart<C>>(kThreads);
  Of of;
  uint32_t channels, runs;
  uint32_t units, run;  // all of a channel, and of a block
  Divisor inner;        // units
  int64_t batch_stride[Of::kViews], channel_stride[Of::kViews], unit_stride[Of::kViews];
  ChannelPart<C>* parts;  // [runs, channels]

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const uint32_t channel = static_cast<uint32_t>(t.block()) / runs;
    const uint32_t which = static_cast<uint32_t>(t.block()) - channel * runs;
    ChannelPart<C> part{C(0), C(0), C(0)};
    if constexpr (kWide == kPack) {
      switch (of.views[0].dtype) {
        case DType::bf16: sum<BFloat16>(t, channel, which, &part); break;
        case DType::f16: sum<Float16>(t, channel, which, &part); break;
        default: sum<float>(t, channel, which, &part);
      }
    } else {
      sum<C>(t, channel, which, &part);
    }
    part = across_block<kThreads>(t, part, t.shared<ChannelPart<C>>(), JoinParts<Of, C>());
    if (t.index() == 0) parts[int64_t{which} * channels + channel] = part;
  }

 private:
  template <class T>
  LOCKSTEP_DEVICE void sum(const Thread& t, uint32_t channel, uint32_t which,
                           ChannelPart<C>* part) const {
    constexpr int kAhead = as_many_bytes<T>(2);
    const typename Of::Constants constants[] = {of.constants(channel)};
    const uint32_t begin = which * run, end = begin + run < units ? begin + run : units;
    uint32_t unit = begin + t.index();
    for (; unit + (kAhead - 1) * kThreads < end; unit += kAhead * kThreads) {
      add<T, kAhead>(unit, channel, constants, part);
    }
    for (; unit < end; unit += kThreads) add<T, 1>(unit, channel, constants, part);
  }
  template <class T, int n>
  LOCKSTEP_DEVICE void add(uint32_t unit, uint32_t channel,
                           const typename Of::Constants (&constants)[1],
                           ChannelPart<C>* part) const {
    int64_t at[n][Of::kViews];
    for (int i = 0; i < n; ++i) {
      const uint32_t image = inner.divide(unit + i * kThreads);
      const uint32_t place = unit + i * kThreads - image * inner.value;
      for (int k = 0; k < Of::kViews; ++k) {
        at[i][k] = image * batch_stride[k] + channel * channel_stride[k] + place * unit_stride[k];
      }
    }
    C values[Of::kOperands][n][kWide];
    read_gated<T>(of, at, constants, values);
    C all[Of::kOperands][n * kWide];
    for (int k = 0; k < Of::kOperands; ++k) {
      for (int i = 0; i < n * kWide; ++i) all[k][i] = values[k][i / kWide][i % kWide];
    }
    Of::add(all, constants[0], part->count, &part->first, &part->second);
    part->count += C(n * kWide);
  }
};

// Joins the runs, of kWarp channels a block: warp w those of number w, w + kWarps, ….
template <class Of, class C>
struct JoinRunsBody {
  static constexpr int kThreads = 512;
  static constexpr bool kCooperative = true;
  static constexpr int kSharedBytes = kThreads * static_cast<int>(sizeof(ChannelPart<double>));
  Of of;
  const ChannelPart<C>* parts;
  int runs;
  uint32_t channels;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    constexpr int kWarps = kThreads / kWarp;
    constexpr int kAhead = 8;  // parts that are on their way at once
    const uint32_t channel = static_cast<uint32_t>(t.block()) * kWarp + t.lane();
    ChannelPart<double> all{0, 0, 0};
    for (int i = t.warp(); channel < channels && i < runs; i += kWarps * kAhead) {
      ChannelPart<C> some[kAhead];
      for (int a = 0; a < kAhead; ++a) {
        const int run = i + a * kWarps < runs ? i + a * kWarps : i;
        some[a] = parts[int64_t{run} * channels + channel];
      }
      for (int a = 0; a < kAhead; ++a) {
        if (i + a * kWarps >= runs) break;
        all = Of::join(all, ChannelPart<double>{some[a].count, some[a].first, some[a].second});
      }
    }
    auto* shared = t.shared<ChannelPart<double>>();
    shared[t.index()] = all;
    t.sync();
    if (t.warp() != 0 || channel >= channels) return;
    for (int i = 1; i < kWarps; ++i) all = Of::join(all, shared[i * kWarp + t.lane()]);
    of.finish(channel, all);
  }
};

}  // namespace lockstep::cuda
