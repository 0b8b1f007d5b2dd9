#include <algorithm>
#include <cstring>

#include "lockstep/runtime/cpu/row_access.h"
#include "lockstep/runtime/cpu/rows.h"

namespace lockstep::cpu {

namespace {

// Rows whose parameter gradients are summed in T before they join a double.
constexpr int64_t kRowBlock = 64;

// Of layer_norm, or of rms_norm where there is no mean.
template <class T>
struct Backward {
  const Loops& loops;
  const View& dy;
  const View& x;
  const View& weight;
  const View& mean;
  const View& inverse_deviation;
  const ResidualGradient& residual;
  const View& dx;
  const View& dweight;
  const View& dbias;
  const double* beta;

  int64_t width() const { return row_width(x); }

  // Rows of one block: dx, and the block's sums for dweight and dbias (either may be null).
  void block(int64_t begin, int64_t end, T* weight_sums, T* bias_sums) const {
    const RowLoops<T>& rows = loops.of<T>().rows;
    const Rows<T> upstream(loops, dy, width());
    const Rows<T> input(loops, x, width());
    const Rows<T> scale(loops, weight, width());
    const Rows<T> passed(loops, residual.dsum, width());
    const Rows<T> out(loops, dx, width());
    const Rows<T> rounded(loops, residual.ddelta, width());
    const bool adds = residual.dsum.data != nullptr;
    const T factor = adds ? T(1) : static_cast<T>(beta[0]);
    // Where ddelta alone is wanted.
    Scratch<T> unkept(dx.data == nullptr && residual.ddelta.data != nullptr ? width() : 0);
    const T* gamma = scale.read(0);
    if (weight_sums != nullptr) std::fill(weight_sums, weight_sums + width(), T(0));
    if (bias_sums != nullptr) std::fill(bias_sums, bias_sums + width(), T(0));
    for (int64_t row = begin; row < end; ++row) {
      const T statistics[2] = {mean.data == nullptr ? T(0) : mean.as<T>()[row],
                               inverse_deviation.as<T>()[row]};
      const T* dy_row = upstream.read(row);
      const T* x_row = input.read(row);
      // Before dx, which may be written over dy.
      rows.layer_norm_parameter_gradients(dy_row, x_row, statistics, weight_sums, bias_sums,
                                          width());
      if (dx.data == nullptr && residual.ddelta.data == nullptr) continue;
      T* dx_row = dx.data == nullptr ? unkept.get() : out.write(row, !adds && factor != 0);
      if (adds) copy_row(passed.read(row), dx_row);
      if (mean.data == nullptr) {
        rows.rms_norm_input_gradient(dy_row, x_row, gamma, statistics[1], dx_row, width(), factor);
      } else {
        rows.layer_norm_input_gradient(dy_row, x_row, gamma, statistics, dx_row, width(), factor);
      }
      if (residual.ddelta.data != nullptr) {
        copy_row(dx_row, rounded.write(row));
        rounded.done(row);
      }
      out.done(row);
    }
  }

  void copy_row(const T* from, T* to) const {
    if (from != to) std::memcpy(to, from, static_cast<size_t>(width()) * sizeof(T));
  }

  // out = (the sum of the blocks' rows of `sums`) + beta * out
  void total(const T* sums, int64_t blocks, int64_t stride, const View& out, double factor) const {
    const RowLoops<T>& rows = loops.of<T>().rows;
    Scratch<double> totals(width());
    std::fill(totals.get(), totals.get() + width(), 0.0);
    for (int64_t i = 0; i < blocks; ++i) {
      rows.add_to_double(sums + i * stride, totals.get(), width());
    }
    if (factor != 0) {
      Scratch<double> before(width());
      convert(loops, out.data, out.dtype, 1, before.get(), DType::f64, 1, width());
      loops.f64.rows.scale_add(factor, before.get(), 1, totals.get(), width());
    }
    convert(loops, totals.get(), DType::f64, 1, out.data, out.dtype, 1, width());
  }

  void operator()() const {
    const int64_t count = row_count(x);
    const int64_t blocks = (count + kRowBlock - 1) / kRowBlock;
    const bool wants_weight = dweight.data != nullptr;
    const bool wants_bias = dbias.data != nullptr;
    Scratch<T> sums(2 * blocks * width());
    parallel_for(blocks, std::max<int64_t>(1, row_grain(width()) / kRowBlock),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i) {
                     T* both = &sums[2 * i * width()];
                     block(i * kRowBlock, std::min(count, (i + 1) * kRowBlock),
                           wants_weight ? both : nullptr, wants_bias ? both + width() : nullptr);
                   }
                 });
    if (wants_weight) total(sums.get(), blocks, 2 * width(), dweight, beta[1]);
    if (wants_bias) total(sums.get() + width(), blocks, 2 * width(), dbias, beta[2]);
  }
};

}  // namespace

void layer_norm(const Loops& loops, const View& x, const ResidualSum& residual, const View& weight,
                const View& bias, double epsilon, const View& y, const View& mean,
                const View& inverse_deviation) {
  if (x.elements() == 0) return;
  const int64_t width = row_width(x);
  const bool adds = residual.delta.data != nullptr;
  with_row_type(x.dtype, [&]<class T>(T) {
    parallel_for(row_count(x), row_grain(width), [&](int64_t begin, int64_t end) {
      const Rows<T> before(loops, x, width);
      const Rows<T> delta(loops, residual.delta, width);
      const Rows<T> in(loops, adds ? residual.sum : x, width);
      const Rows<T> scale(loops, weight, width);
      const Rows<T> shift(loops, bias, width);
      const Rows<T> out(loops, y, width);
      const T* gamma = scale.read(0);
      const T* offset = shift.read(0);
      for (int64_t row = begin; row < end; ++row) {
        if (adds) {
          T* sum = in.write(row);
          std::memcpy(sum, before.read(row), static_cast<size_t>(width) * sizeof(T));
          loops.of<T>().rows.add(delta.read(row), sum, width);
          in.done(row);
        }
        T statistics[2];
        loops.of<T>().rows.layer_norm(in.read(row), gamma, offset, epsilon, out.write(row),
                                      statistics, width);
        out.done(row);
        mean.as<T>()[row] = statistics[0];
        inverse_deviation.as<T>()[row] = statistics[1];
      }
    });
  });
}

void layer_norm_backward(const Loops& loops, const View& dy, const View& x, const View& weight,
                         const View& mean, const View& inverse_deviation,
                         const ResidualGradient& residual, const View& dx, const View& dweight,
                         const View& dbias, const double beta[3]) {
  if (row_width(x) == 0) return;
  with_row_type(x.dtype, [&]<class T>(T) {
    Backward<T>{loops,    dy, x,       weight, mean, inverse_deviation,
                residual, dx, dweight, dbias,  beta}();
  });
}

void rms_norm(const Loops& loops, const View& x, const View& weight, double epsilon, const View& y,
              const View& inverse_rms) {
  if (x.elements() == 0) return;
  const int64_t width = row_width(x);
  with_row_type(x.dtype, [&]<class T>(T) {
    parallel_for(row_count(x), row_grain(width), [&](int64_t begin, int64_t end) {
      const Rows<T> in(loops, x, width);
      const Rows<T> scale(loops, weight, width);
      const Rows<T> out(loops, y, width);
      const T* gamma = scale.read(0);
      for (int64_t row = begin; row < end; ++row) {
        loops.of<T>().rows.rms_norm(in.read(row), gamma, epsilon, out.write(row),
                                    inverse_rms.as<T>() + row, width);
        out.done(row);
      }
    });
  });
}

void rms_norm_backward(const Loops& loops, const View& dy, const View& x, const View& weight,
                       const View& inverse_rms, const View& dx, const View& dweight,
                       const double beta[2]) {
  if (row_width(x) == 0) return;
  const double betas[3] = {beta[0], beta[1], 0};
  with_row_type(x.dtype, [&]<class T>(T) {
    Backward<T>{loops, dy, x, weight, View(), inverse_rms, {}, dx, dweight, View(), betas}();
  });
}

}  // namespace lockstep::cpu
