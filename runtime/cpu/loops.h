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

struct AdamConstants {
  double beta1, beta2;
  double step_size;     // learning rate / (1 - beta1^t)
  double inverse_root;  // 1 / sqrt(1 - beta2^t)
  double epsilon;
  double gradient_scale;
  double parameter_scale;  // 1 - learning rate * decay, when decoupled
  double decay;            // added to the gradient, when not
};

struct SgdConstants {
  double learning_rate, momentum, gradient_share;  // gradient_share = 1 - dampening, or 1 at first
  double gradient_scale, decay;
  bool nesterov, first_step;
};

template <class T>
struct UpdateLoops {
  void (*adam)(T* parameter, const T* gradient, T* m, T* v, int64_t n, const AdamConstants& c);
  void (*sgd)(T* parameter, const T* gradient, T* buffer, int64_t n, const SgdConstants& c);
};

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
  UpdateLoops<T> update;
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
