#pragma once

#include <cstdint>

#include "lockstep/runtime/cuda/kernels/operand.h"
#include "lockstep/runtime/cuda/kernels/rows.h"
#include "lockstep/runtime/cuda/strided.h"

// Sums over batch and inner of each channel of [batch, channels, inner]. A block sums a run of a
// few channels' values, and a second kernel joins the runs in their order; how values are cut
// depends on shapes and strides alone.
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
  static constexpr int kOperands = 1;
  Operand operands[kOperands];  // x
  C* mean;
  C* variance;

  LOCKSTEP_HD C constant(uint32_t) const { return C(0); }

  // Adds n values to `count` that came before.
  template <int n>
  LOCKSTEP_HD static void add(const C (&values)[kOperands][n], C, C count, C* first, C* second) {
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

// The sums of dy and of dy * (x - mean).
template <class C>
struct GradientSumsOf {
  static constexpr int kOperands = 2;
  Operand operands[kOperands];  // dy and x
  const C* mean;
  C* sum;
  C* product_sum;

  LOCKSTEP_HD C constant(uint32_t channel) const { return mean[channel]; }

  template <int n>
  LOCKSTEP_HD static void add(const C (&values)[kOperands][n], C mean, C, C* first, C* second) {
    C sum = C(0), products = C(0);
    for (int i = 0; i < n; ++i) {
      sum += values[0][i];
      products += values[0][i] * (values[1][i] - mean);
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

template <class C, int kWide>
LOCKSTEP_HD void read_channels(const Operand& from, int64_t at, C (&out)[kWide]) {
  if constexpr (kWide == kPack) {
    load_pack(from.data, from.dtype, at, out);
  } else {
    out[0] = from.get<C>(at);
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
  static constexpr int kAhead = Of::kOperands == 1 ? 4 : 2;  // rows that are on their way at once
  static constexpr int kSharedBytes = kThreads * kWide * static_cast<int>(sizeof(ChannelPart<C>));
  Of of;
  PixelCut cut;
  Divisor inner;
  int64_t batch_stride[Of::kOperands], inner_stride[Of::kOperands];
  ChannelPart<C>* parts;  // [runs, channels]

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const uint32_t column =
        static_cast<uint32_t>(t.block_y()) * cut.across + t.index() % cut.across;
    C count = C(0), first[kWide] = {}, second[kWide] = {};
    if (column < cut.columns) sum(t, column, &count, first, second);
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
  LOCKSTEP_DEVICE void sum(const Thread& t, uint32_t column, C* count, C (&first)[kWide],
                           C (&second)[kWide]) const {
    C constants[kWide];
    for (int j = 0; j < kWide; ++j) constants[j] = of.constant(column * kWide + j);
    const uint32_t step = kThreads / cut.across;
    const uint32_t begin = static_cast<uint32_t>(t.block()) * cut.run;
    const uint32_t end = begin + cut.run < cut.rows ? begin + cut.run : cut.rows;
    uint32_t row = begin + t.index() / cut.across;
    for (; row + (kAhead - 1) * step < end; row += kAhead * step) {
      add<kAhead>(row, step, column, constants, count, first, second);
    }
    for (; row < end; row += step) add<1>(row, step, column, constants, count, first, second);
  }
  template <int n>
  LOCKSTEP_DEVICE void add(uint32_t row, uint32_t step, uint32_t column,
                           const C (&constants)[kWide], C* count, C (&first)[kWide],
                           C (&second)[kWide]) const {
    C values[Of::kOperands][n][kWide];
    for (int i = 0; i < n; ++i) {
      const uint32_t image = inner.divide(row + i * step);
      const uint32_t place = row + i * step - image * inner.value;
      for (int k = 0; k < Of::kOperands; ++k) {
        const int64_t at = image * batch_stride[k] + place * inner_stride[k] + column * kWide;
        read_channels(of.operands[k], at, values[k][i]);
      }
    }
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
  static constexpr int kAhead = 2;
  static constexpr int kSharedBytes = across_block_bytes<ChannelPart<C>>(kThreads);
  Of of;
  uint32_t channels, runs;
  uint32_t units, run;  // all of a channel, and of a block
  Divisor inner;        // units
  int64_t batch_stride[Of::kOperands], channel_stride[Of::kOperands], unit_stride[Of::kOperands];
  ChannelPart<C>* parts;  // [runs, channels]

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const uint32_t channel = static_cast<uint32_t>(t.block()) / runs;
    const uint32_t which = static_cast<uint32_t>(t.block()) - channel * runs;
    const C constant = of.constant(channel);
    ChannelPart<C> part{C(0), C(0), C(0)};
    const uint32_t begin = which * run, end = begin + run < units ? begin + run : units;
    uint32_t unit = begin + t.index();
    for (; unit + (kAhead - 1) * kThreads < end; unit += kAhead * kThreads) {
      add<kAhead>(unit, channel, constant, &part);
    }
    for (; unit < end; unit += kThreads) add<1>(unit, channel, constant, &part);
    part = across_block<kThreads>(t, part, t.shared<ChannelPart<C>>(), JoinParts<Of, C>());
    if (t.index() == 0) parts[int64_t{which} * channels + channel] = part;
  }

 private:
  template <int n>
  LOCKSTEP_DEVICE void add(uint32_t unit, uint32_t channel, C constant,
                           ChannelPart<C>* part) const {
    C values[Of::kOperands][n * kWide];
    for (int i = 0; i < n; ++i) {
      const uint32_t image = inner.divide(unit + i * kThreads);
      const uint32_t place = unit + i * kThreads - image * inner.value;
      for (int k = 0; k < Of::kOperands; ++k) {
        C some[kWide];
        read_channels(
            of.operands[k],
            image * batch_stride[k] + channel * channel_stride[k] + place * unit_stride[k], some);
        for (int j = 0; j < kWide; ++j) values[k][i * kWide + j] = some[j];
      }
    }
    Of::add(values, constant, part->count, &part->first, &part->second);
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
    const uint32_t channel = static_cast<uint32_t>(t.block()) * kWarp + t.lane();
    ChannelPart<double> all{0, 0, 0};
    for (int i = t.warp(); channel < channels && i < runs; i += kWarps) {
      const ChannelPart<C>& part = parts[int64_t{i} * channels + channel];
      all = Of::join(all, ChannelPart<double>{part.count, part.first, part.second});
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
