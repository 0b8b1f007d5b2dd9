#include <algorithm>

#include "lockstep/runtime/cpu/row_access.h"
#include "lockstep/runtime/cpu/rows.h"

namespace lockstep::cpu {
namespace {

struct Losses {
  double sum = 0;
  int64_t count = 0;
};

// Halves are summed by themselves: the error grows with the log of the size.
template <class T>
Losses losses_of(const T* loss, const int64_t* targets, int64_t ignore, int64_t rows) {
  constexpr int64_t kShort = 256;
  Losses all;
  if (rows > kShort) {
    const int64_t half = rows / 2;
    all = losses_of(loss, targets, ignore, half);
    const Losses rest = losses_of(loss + half, targets + half, ignore, rows - half);
    return {all.sum + rest.sum, all.count + rest.count};
  }
  for (int64_t row = 0; row < rows; ++row) {
    if (targets[row] == ignore) continue;
    all.sum += static_cast<double>(loss[row]);
    ++all.count;
  }
  return all;
}

}  // namespace

void softmax(const Loops& loops, const View& x, const View& y, bool log) {
  if (x.elements() == 0) return;
  const int64_t width = row_width(x);
  with_row_type(x.dtype, [&]<class T>(T) {
    const RowLoops<T>& rows = loops.of<T>().rows;
    const auto function = log ? rows.log_softmax : rows.softmax;
    parallel_for(row_count(x), row_grain(width), [&](int64_t begin, int64_t end) {
      const Rows<T> in(loops, x, width);
      const Rows<T> out(loops, y, width);
      for (int64_t row = begin; row < end; ++row) {
        function(in.read(row), out.write(row), width);
        out.done(row);
      }
    });
  });
}

void softmax_backward(const Loops& loops, const View& y, const View& dy, const View& dx, bool log,
                      double beta) {
  if (y.elements() == 0) return;
  const int64_t width = row_width(y);
  with_row_type(y.dtype, [&]<class T>(T) {
    const RowLoops<T>& rows = loops.of<T>().rows;
    const auto function = log ? rows.log_softmax_backward : rows.softmax_backward;
    parallel_for(row_count(y), row_grain(width), [&](int64_t begin, int64_t end) {
      const Rows<T> value(loops, y, width);
      const Rows<T> upstream(loops, dy, width);
      const Rows<T> out(loops, dx, width);
      for (int64_t row = begin; row < end; ++row) {
        function(value.read(row), upstream.read(row), out.write(row, beta != 0), width,
                 static_cast<T>(beta));
        out.done(row);
      }
    });
  });
}

void cross_entropy(const Loops& loops, const View& logits, const View& targets, int64_t ignore,
                   const View& loss, const View& log_sum_exp) {
  if (logits.elements() == 0) return;
  const int64_t width = row_width(logits);
  const int64_t* target = targets.as<int64_t>();
  with_row_type(logits.dtype, [&]<class T>(T) {
    parallel_for(row_count(logits), row_grain(width), [&](int64_t begin, int64_t end) {
      const Rows<T> in(loops, logits, width);
      for (int64_t row = begin; row < end; ++row) {
        const T* x = in.read(row);
        const T sum = loops.of<T>().rows.log_sum_exp(x, width);
        log_sum_exp.as<T>()[row] = sum;
        loss.as<T>()[row] = target[row] == ignore ? T(0) : sum - x[target[row]];
      }
    });
  });
}

void mean_loss(const View& loss, const View& targets, int64_t ignore, const View& result) {
  with_row_type(loss.dtype, [&]<class T>(T) {
    const Losses all = losses_of(loss.as<T>(), targets.as<int64_t>(), ignore, loss.shape[0]);
    const auto count = static_cast<double>(all.count);
    result.as<T>()[0] = static_cast<T>(all.sum / count);
    result.as<T>()[1] = static_cast<T>(1 / count);
  });
}

void cross_entropy_backward(const Loops& loops, const View& logits, const View& targets,
                            int64_t ignore, const View& log_sum_exp, const View& dloss,
                            const View& dlogits, double beta) {
  if (logits.elements() == 0) return;
  const int64_t width = row_width(logits);
  const int64_t* target = targets.as<int64_t>();
  with_row_type(logits.dtype, [&]<class T>(T) {
    const RowLoops<T>& rows = loops.of<T>().rows;
    parallel_for(row_count(logits), row_grain(width), [&](int64_t begin, int64_t end) {
      const Rows<T> in(loops, logits, width);
      const Rows<T> out(loops, dlogits, width);
      for (int64_t row = begin; row < end; ++row) {
        T* dx = out.write(row, beta != 0);
        const T scale = dloss.as<T>()[row * dloss.strides[0]];
        if (target[row] == ignore) {
          if (beta == 0) std::fill(dx, dx + width, T(0));
          if (beta != 0) rows.scale_add(static_cast<T>(beta), dx, T(0), dx, width);
        } else {
          rows.scaled_probabilities(in.read(row), log_sum_exp.as<T>()[row], scale, dx, width,
                                    static_cast<T>(beta));
          dx[target[row]] -= scale;
        }
        out.done(row);
      }
    });
  });
}

}  // namespace lockstep::cpu
