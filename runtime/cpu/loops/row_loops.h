#pragma once

#include <limits>

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/math/functor.h"

// Included by the per-level files only: internal linkage throughout. Sums are carried in T within
// blocks of kSumBlock values and in double between them, so that the error does not grow with n.
namespace lockstep::cpu {
namespace {

constexpr int64_t kSumBlock = 256;

// The sum of term(i) for i in [0, n), in an order that depends on n alone.
template <class T, class Term>
LOCKSTEP_HD double blocked_sum(int64_t n, const Term& term) {
  double total = 0;
  for (int64_t start = 0; start < n; start += kSumBlock) {
    const int64_t end = n - start < kSumBlock ? n : start + kSumBlock;
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = start; i < end; ++i) sum += term(i);
    total += static_cast<double>(sum);
  }
  return total;
}

template <class T>
double row_sum(const T* x, int64_t n) {
  return blocked_sum<T>(
      n, [=](int64_t i) __attribute__((always_inline)) { return x[i]; });
}

template <class T>
double row_sum_of_squares(const T* x, int64_t n) {
  return blocked_sum<double>(
      n, [=](int64_t i) __attribute__((always_inline)) {
        return static_cast<double>(x[i]) * static_cast<double>(x[i]);
      });
}

template <class T>
double row_dot(const T* x, const T* y, int64_t n) {
  return blocked_sum<T>(
      n, [=](int64_t i) __attribute__((always_inline)) { return x[i] * y[i]; });
}

// Ignores NaN unless all are.
template <class T>
LOCKSTEP_HD T plain_maximum(const T* x, int64_t n) {
  T best = x[0];
#pragma omp simd reduction(max : best)
  for (int64_t i = 1; i < n; ++i) best = best < x[i] ? x[i] : best;
  return best;
}

template <class T>
LOCKSTEP_HD T nan_or(const T* x, int64_t n, T otherwise) {
  T sum = 0;  // NaN when any value is: the others count 0
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i] == x[i] ? T(0) : x[i];
  return sum == sum ? otherwise : sum;
}

template <class T>
T row_maximum(const T* x, int64_t n) {
  return nan_or(x, n, plain_maximum(x, n));
}

template <class T>
T row_minimum(const T* x, int64_t n) {
  T best = x[0];
#pragma omp simd reduction(min : best)
  for (int64_t i = 1; i < n; ++i) best = x[i] < best ? x[i] : best;
  return nan_or(x, n, best);
}

template <class T>
void row_add(const T* x, T* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] += x[i];
}

template <class T>
void row_add_to_double(const T* x, double* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] += static_cast<double>(x[i]);
}

template <class T>
void row_keep_maximum(const T* x, T* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const T a = x[i];
    const T b = y[i];
    const T larger = a > b ? a : b;  // b where either is NaN
    y[i] = a == a ? larger : a;
  }
}

template <class T>
void row_keep_minimum(const T* x, T* y, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) {
    const T a = x[i];
    const T b = y[i];
    const T smaller = a < b ? a : b;
    y[i] = a == a ? smaller : a;
  }
}

template <class T>
void row_scale_add(T alpha, const T* x, T beta, T* y, int64_t n) {
  if (beta == 0) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = alpha * x[i];
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = alpha * x[i] + beta * y[i];
  }
}

// out[i] = term(i) + beta * out[i]
template <class T, class Term>
LOCKSTEP_HD void accumulate(T* out, int64_t n, T beta, const Term& term) {
  if (beta == 0) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) out[i] = term(i);
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) out[i] = term(i) + beta * out[i];
  }
}

// y = exp(x - maximum); returns the sum.
template <class T>
LOCKSTEP_HD double exponentials(const T* x, T maximum, T* y, int64_t n) {
  return blocked_sum<T>(
      n, [=](int64_t i) __attribute__((always_inline)) {
        const T value = math::exp(x[i] - maximum);
        y[i] = value;
        return value;
      });
}

template <class T>
T row_softmax(const T* x, T* y, int64_t n) {
  const T maximum = plain_maximum(x, n);
  const double sum = exponentials(x, maximum, y, n);
  const T factor = static_cast<T>(1 / sum);
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] *= factor;
  return static_cast<T>(static_cast<double>(maximum) + ::log(sum));
}

template <class T>
T row_log_sum_exp(const T* x, int64_t n) {
  const T maximum = plain_maximum(x, n);
  const double sum = blocked_sum<T>(
      n, [=](int64_t i) __attribute__((always_inline)) { return math::exp(x[i] - maximum); });
  return static_cast<T>(static_cast<double>(maximum) + ::log(sum));
}

template <class T>
T row_log_softmax(const T* x, T* y, int64_t n) {
  // Two terms, because their sum loses digits where the values are large and close together.
  const T maximum = plain_maximum(x, n);
  const double sum = blocked_sum<T>(
      n, [=](int64_t i) __attribute__((always_inline)) { return math::exp(x[i] - maximum); });
  const T log_sum = static_cast<T>(::log(sum));
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - maximum) - log_sum;
  return maximum + log_sum;
}

template <class T>
void row_softmax_backward(const T* y, const T* dy, T* dx, int64_t n, T beta) {
  const T dot = static_cast<T>(row_dot(y, dy, n));
  accumulate(
      dx, n, beta, [=](int64_t i) __attribute__((always_inline)) { return y[i] * (dy[i] - dot); });
}

template <class T>
void row_log_softmax_backward(const T* y, const T* dy, T* dx, int64_t n, T beta) {
  const T sum = static_cast<T>(row_sum(dy, n));
  accumulate(
      dx, n, beta, [=](int64_t i) __attribute__((always_inline)) {
        return dy[i] - math::exp(y[i]) * sum;
      });
}

template <class T>
void row_scaled_probabilities(const T* x, T log_sum_exp, T scale, T* dx, int64_t n, T beta) {
  accumulate(
      dx, n, beta, [=](int64_t i) __attribute__((always_inline)) {
        return math::exp(x[i] - log_sum_exp) * scale;
      });
}

template <class T>
void row_layer_norm(const T* x, const T* weight, const T* bias, double epsilon, T* y,
                    T statistics[2], int64_t n) {
  const T mean = static_cast<T>(row_sum(x, n) / static_cast<double>(n));
  const double squares = blocked_sum<T>(
      n, [=](int64_t i) __attribute__((always_inline)) { return (x[i] - mean) * (x[i] - mean); });
  const T inverse = static_cast<T>(1 / ::sqrt(squares / static_cast<double>(n) + epsilon));
  statistics[0] = mean;
  statistics[1] = inverse;
  if (weight != nullptr && bias != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - mean) * inverse * weight[i] + bias[i];
    return;
  }
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - mean) * inverse;
  if (weight != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] *= weight[i];
  }
  if (bias != nullptr) row_add(bias, y, n);
}

// With h = (x - mean) / deviation and g = dy * weight:
// dx = (g - mean(g) - h mean(g h)) / deviation.
template <class T>
void row_layer_norm_input_gradient(const T* dy, const T* x, const T* weight, const T statistics[2],
                                   T* dx, int64_t n, T beta) {
  const T mean = statistics[0];
  const T inverse = statistics[1];
  const double count = static_cast<double>(n);
  if (weight == nullptr) {
    const T mean_g = static_cast<T>(row_sum(dy, n) / count);
    const T mean_gh = static_cast<T>(blocked_sum<T>(
                                         n, [=
    ](int64_t i) __attribute__((always_inline)) { return dy[i] * ((x[i] - mean) * inverse); }) /
                                     count);
    accumulate(
        dx, n, beta, [=](int64_t i) __attribute__((always_inline)) {
          return inverse * (dy[i] - mean_g - (x[i] - mean) * inverse * mean_gh);
        });
    return;
  }
  const T mean_g = static_cast<T>(row_dot(dy, weight, n) / count);
  const T mean_gh = static_cast<T>(
      blocked_sum<T>(
          n, [=](int64_t i) __attribute__((
                 always_inline)) { return dy[i] * weight[i] * ((x[i] - mean) * inverse); }) /
      count);
  accumulate(
      dx, n, beta, [=](int64_t i) __attribute__((always_inline)) {
        return inverse * (dy[i] * weight[i] - mean_g - (x[i] - mean) * inverse * mean_gh);
      });
}

template <class T>
void row_layer_norm_parameter_gradients(const T* dy, const T* x, const T statistics[2], T* dweight,
                                        T* dbias, int64_t n) {
  const T mean = statistics[0];
  const T inverse = statistics[1];
  if (dweight != nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) dweight[i] += dy[i] * ((x[i] - mean) * inverse);
  }
  if (dbias != nullptr) row_add(dy, dbias, n);
}

template <class T>
void row_rms_norm(const T* x, const T* weight, double epsilon, T* y, T* inverse_rms, int64_t n) {
  const double squares = blocked_sum<T>(
      n, [=](int64_t i) __attribute__((always_inline)) { return x[i] * x[i]; });
  const T inverse = static_cast<T>(1 / ::sqrt(squares / static_cast<double>(n) + epsilon));
  *inverse_rms = inverse;
  if (weight == nullptr) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = x[i] * inverse;
  } else {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = x[i] * inverse * weight[i];
  }
}

// With h = x / rms and g = dy * weight: dx = (g - h mean(g h)) / rms.
template <class T>
void row_rms_norm_input_gradient(const T* dy, const T* x, const T* weight, T inverse, T* dx,
                                 int64_t n, T beta) {
  const double count = static_cast<double>(n);
  const T square = inverse * inverse;
  if (weight == nullptr) {
    const T slope = square * static_cast<T>(row_dot(dy, x, n) / count);
    accumulate(
        dx, n, beta, [=](int64_t i) __attribute__((always_inline)) {
          return inverse * (dy[i] - x[i] * slope);
        });
    return;
  }
  const double dot = blocked_sum<T>(
      n, [=](int64_t i) __attribute__((always_inline)) { return dy[i] * weight[i] * x[i]; });
  const T slope = square * static_cast<T>(dot / count);
  accumulate(
      dx, n, beta, [=](int64_t i) __attribute__((always_inline)) {
        return inverse * (dy[i] * weight[i] - x[i] * slope);
      });
}

template <class T>
T row_attention_exponentials(T* scores, T scale, T* maximum, int64_t n, int64_t padded) {
  // The padding joins the vectors: a scalar remainder would cost as much as a short row.
  for (int64_t i = n; i < padded; ++i) scores[i] = scores[0];
  T best = scale * scores[0];
#pragma omp simd reduction(max : best)
  for (int64_t i = 0; i < padded; ++i) {
    const T scaled = scale * scores[i];
    best = best < scaled ? scaled : best;
  }
  constexpr T kNone = -std::numeric_limits<T>::infinity();
  if (best == kNone) {  // NaN may be among them
    for (int64_t i = 0; i < n; ++i) {
      const T scaled = scale * scores[i];
      if (scaled != scaled) best = scaled;
    }
  }
  *maximum = best;
  return static_cast<T>(blocked_sum<T>(
      padded, [=](int64_t i) __attribute__((always_inline)) {
        const T exponential = math::exp(scale * scores[i] - best);
        const T value = i < n ? exponential : T(0);
        scores[i] = value;
        return value;
      }));
}

template <class T>
void row_attention_gradients(T* scores, T* dscores, T scale, T log_sum_exp, T delta, int64_t n,
                             int64_t padded) {
#pragma omp simd
  for (int64_t i = 0; i < padded; ++i) {
    const T exponential = math::exp(scale * scores[i] - log_sum_exp);
    const T dscore = exponential * (dscores[i] - delta) * scale;
    scores[i] = i < n ? exponential : T(0);
    dscores[i] = i < n ? dscore : T(0);
  }
}

template <class T>
void row_masked(const T* x, const uint32_t* words, uint32_t threshold, T scale, T* y, int64_t n,
                T beta) {
  accumulate(
      y, n, beta, [=](int64_t i) __attribute__((always_inline)) {
        const T scaled = x[i] * scale;
        return words[i] >= threshold ? scaled : T(0);
      });
}

template <class T>
constexpr RowLoops<T> row_loops() {
  return {.sum = row_sum<T>,
          .sum_of_squares = row_sum_of_squares<T>,
          .maximum = row_maximum<T>,
          .minimum = row_minimum<T>,
          .add = row_add<T>,
          .add_to_double = row_add_to_double<T>,
          .keep_maximum = row_keep_maximum<T>,
          .keep_minimum = row_keep_minimum<T>,
          .scale_add = row_scale_add<T>,
          .softmax = row_softmax<T>,
          .log_softmax = row_log_softmax<T>,
          .log_sum_exp = row_log_sum_exp<T>,
          .softmax_backward = row_softmax_backward<T>,
          .log_softmax_backward = row_log_softmax_backward<T>,
          .scaled_probabilities = row_scaled_probabilities<T>,
          .layer_norm = row_layer_norm<T>,
          .layer_norm_input_gradient = row_layer_norm_input_gradient<T>,
          .layer_norm_parameter_gradients = row_layer_norm_parameter_gradients<T>,
          .rms_norm = row_rms_norm<T>,
          .rms_norm_input_gradient = row_rms_norm_input_gradient<T>,
          .attention_exponentials = row_attention_exponentials<T>,
          .attention_gradients = row_attention_gradients<T>,
          .dot = row_dot<T>,
          .masked = row_masked<T>};
}

}  // namespace
}  // namespace lockstep::cpu
