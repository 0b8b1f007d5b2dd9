#pragma once

#include <cstdint>

namespace lockstep::cpu {

// The inner loops that are compiled once for each instruction level: plain functions on contiguous
// values, found through tables, so that everything around them is shared. `n` may be 0. Outputs may
// be the same memory as an input, but not overlap it otherwise.

// Reads `inputs` in the op's order, writes `output`. Inputs that a derivative does not read may be
// null.
using ElementwiseLoop = void (*)(const double* attributes, const void* const* inputs, void* output,
                                 int64_t n);

// Indexed by the functor's place in its list (runtime/math).
struct ElementwiseLoops {
  const ElementwiseLoop* unary;
  const ElementwiseLoop* unary_backward;      // x, y, dy
  const ElementwiseLoop* binary;              // a, b
  const ElementwiseLoop* binary_backward[2];  // a, b, out, dy; by operand
  const ElementwiseLoop* compare;             // a, b; writes bool
  ElementwiseLoop where;                      // condition (bool), a, b
  // alpha * x + beta * y with these attributes; y is not read, and may be null, when beta is 0.
  ElementwiseLoop scale_add;
};

// One row, or a part of one.
template <class T>
struct RowLoops {
  double (*sum)(const T* x, int64_t n);
  double (*sum_of_squares)(const T* x, int64_t n);
  T (*maximum)(const T* x, int64_t n);  // NaN if there is one; n > 0
  T (*minimum)(const T* x, int64_t n);
  void (*add)(const T* x, T* y, int64_t n);  // y += x
  void (*add_to_double)(const T* x, double* y, int64_t n);
  void (*keep_maximum)(const T* x, T* y, int64_t n);  // y = max(x, y), NaN stays
  void (*keep_minimum)(const T* x, T* y, int64_t n);
  void (*scale_add)(T alpha, const T* x, T beta, T* y, int64_t n);  // beta 0 ignores y

  // Those that return a value return the row's log-sum-exp.
  T (*softmax)(const T* x, T* y, int64_t n);
  T (*log_softmax)(const T* x, T* y, int64_t n);
  T (*log_sum_exp)(const T* x, int64_t n);
  void (*softmax_backward)(const T* y, const T* dy, T* dx, int64_t n, T beta);
  void (*log_softmax_backward)(const T* y, const T* dy, T* dx, int64_t n, T beta);
  // dx = exp(x - log_sum_exp) * scale + beta * dx
  void (*scaled_probabilities)(const T* x, T log_sum_exp, T scale, T* dx, int64_t n, T beta);

  // weight and bias may be null. Writes mean and 1 / sqrt(variance + epsilon).
  void (*layer_norm)(const T* x, const T* weight, const T* bias, double epsilon, T* y,
                     T statistics[2], int64_t n);
  void (*layer_norm_input_gradient)(const T* dy, const T* x, const T* weight, const T statistics[2],
                                    T* dx, int64_t n, T beta);
  // dweight += dy * (x - mean) / deviation, dbias += dy; either may be null.
  void (*layer_norm_parameter_gradients)(const T* dy, const T* x, const T statistics[2], T* dweight,
                                         T* dbias, int64_t n);

  // weight may be null. Writes 1 / sqrt(mean of squares + epsilon).
  void (*rms_norm)(const T* x, const T* weight, double epsilon, T* y, T* inverse_rms, int64_t n);
  void (*rms_norm_input_gradient)(const T* dy, const T* x, const T* weight, T inverse_rms, T* dx,
                                  int64_t n, T beta);

  // Both work on the first n values and set those up to `padded` to 0.
  // scores = exp(scale * (scores - max)); returns their sum, and scale * max.
  T (*attention_exponentials)(T* scores, T scale, T* maximum, int64_t n, int64_t padded);
  // scores = exp(scale * scores - log_sum_exp), then
  // dscores = scores * (dscores - delta) * scale.
  void (*attention_gradients)(T* scores, T* dscores, T scale, T log_sum_exp, T delta, int64_t n,
                              int64_t padded);
  double (*dot)(const T* x, const T* y, int64_t n);
  // y = (words >= threshold ? x * scale : 0) + beta * y
  void (*masked)(const T* x, const uint32_t* words, uint32_t threshold, T scale, T* y, int64_t n,
                 T beta);
};

// What batch normalization does to the values of one channel that lie side by side, and to whole
// pixels: rows of n channels, one after the other.
template <class T>
struct ChannelLoops {
  double (*squared_deviations)(const T* x, T mean, int64_t n);
  double (*centered_dot)(const T* dy, const T* x, T mean, int64_t n);  // sum of dy * (x - mean)
  // y = x * scale + shift + dy * dy_scale; dy may be null
  void (*affine)(const T* x, T scale, T shift, const T* dy, T dy_scale, T* y, int64_t n);
  // g = dy, but 0 where x * scale + shift <= 0
  void (*gate)(const T* dy, const T* x, T scale, T shift, T* g, int64_t n);

  void (*add_pixels)(const T* x, T* y, int64_t rows, int64_t n);  // y += each row
  void (*add_squared_deviations)(const T* x, const T* mean, T* y, int64_t rows, int64_t n);
  // sum += dy, product += dy * (x - mean)
  void (*add_gradients)(const T* dy, const T* x, const T* mean, T* sum, T* product, int64_t rows,
                        int64_t n);
  // Null: no shift, every dy_scale 1.
  void (*affine_pixels)(const T* x, const T* scale, const T* shift, const T* dy, const T* dy_scale,
                        T* y, int64_t rows, int64_t n);
  void (*gate_pixels)(const T* dy, const T* x, const T* scale, const T* shift, T* g, int64_t rows,
                      int64_t n);

  // Of values in any order.
  void (*relu)(T* y, int64_t n);                                     // in place
  void (*gate_by_output)(const T* dy, const T* y, T* g, int64_t n);  // g = dy, but 0 where y <= 0
};

// n values of a run; `constants` are the functor's data members, `state` its arrays.
template <class T>
using UpdateLoop = void (*)(const double* constants, T* parameter, const T* gradient,
                            T* const* state, int64_t n);

struct ConvertLoops {
  void (*bf16_to_f32)(const uint16_t* from, float* to, int64_t n);
  void (*f16_to_f32)(const uint16_t* from, float* to, int64_t n);
  void (*f32_to_bf16)(const float* from, uint16_t* to, int64_t n);
  void (*f32_to_f16)(const float* from, uint16_t* to, int64_t n);
};

// c[m, n] = alpha * op(a)[m, k] @ op(b)[k, n] + beta * c, row-major; op transposes what is stored
// as [k, m] or [n, k]. Leading dimensions count elements between rows as stored. beta 0 ignores c.
struct Gemm {
  int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  int64_t lda = 0, ldb = 0, ldc = 0;
  double alpha = 1, beta = 0;
};

template <class T>
struct GemmLoops {
  int64_t (*workspace)(const Gemm& shape);  // elements, 64-byte aligned
  void (*multiply)(const Gemm& shape, const T* a, const T* b, T* c, T* workspace);
};

template <class T>
struct TypedLoops {
  ElementwiseLoops elementwise;
  RowLoops<T> rows;
  ChannelLoops<T> channels;
  const UpdateLoop<T>* update;  // indexed by math::UpdateOps
  GemmLoops<T> gemm;
};

// Everything of one instruction level.
struct Loops {
  TypedLoops<float> f32;
  TypedLoops<double> f64;
  ConvertLoops convert;
  // The words of `blocks` Philox blocks, counter (first + i, c1, c2, c3), 4 words a block.
  void (*philox)(uint64_t seed, uint32_t first, uint32_t c1, uint32_t c2, uint32_t c3,
                 uint32_t* words, int64_t blocks);

  template <class T>
  const TypedLoops<T>& of() const {
    if constexpr (sizeof(T) == sizeof(float)) {
      return f32;
    } else {
      return f64;
    }
  }
};

extern const Loops kLoopsV2;
extern const Loops kLoopsV3;
extern const Loops kLoopsV4;

}  // namespace lockstep::cpu
