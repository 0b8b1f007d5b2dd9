#pragma once

#include <cstdint>

#include "lockstep/runtime/view.h"

namespace lockstep {

// An elementwise function: its place in the device's table (the functor's index in its type list,
// see runtime/math/) and the functor's data members in order.
struct Elementwise {
  int index = 0;
  double attributes[2] = {0, 0};
};

enum class ReduceOp : uint8_t { sum, mean, max, min };

// Where random numbers come from. A value depends on the seed, the step, the operation and, for
// each element, the global index of its sample and its place within the sample: not on how a batch
// was cut over ranks or micro-batches.
struct RandomKey {
  uint64_t seed = 0;
  uint32_t step = 0;
  uint32_t operation = 0;     // counts random operations within a step
  uint32_t first_sample = 0;  // global index of row 0 of dimension 0
};

// Softmax attention over [batch, heads, query, feature] windows; the feature stride is 1.
struct AttentionOptions {
  bool causal = true;  // query i sees keys 0 … i + (keys - queries)
  double scale = 1.0;
};

// One run of parameters for an optimizer's update: `elements` consecutive values of each array, all
// of one floating dtype. m and v are absent where the optimizer has none.
struct UpdateRun {
  void* parameter = nullptr;
  const void* gradient = nullptr;
  void* first_moment = nullptr;  // SGD: the momentum buffer
  void* second_moment = nullptr;
  int64_t elements = 0;
  DType dtype = DType::f32;
  double weight_decay = 0;
};

// Decoupled weight decay (Loshchilov & Hutter 2019) when `decoupled`, else decay is added to the
// gradient (Kingma & Ba 2015). Gradients are multiplied by `gradient_scale` on the way in.
struct AdamOptions {
  double learning_rate = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  int64_t step = 1;  // counts from 1; bias correction
  double gradient_scale = 1;
  bool decoupled = true;
};

// buffer = momentum * buffer + (1 - dampening) * g (the first step: buffer = g), as in PyTorch.
struct SgdOptions {
  double learning_rate = 1e-3;
  double momentum = 0;
  double dampening = 0;
  bool nesterov = false;
  bool first_step = false;
  double gradient_scale = 1;
};

// What one device computes. Pure virtual without exception: a device that lacks a kernel does not
// build. Callers (runtime/ops) have checked shapes, dtypes and devices: kernels check nothing.
// Where a kernel takes `beta`, it computes out = result + beta * out, and beta 0 ignores what was
// there (NaN included). Empty views are legal. Calls come from one thread per stream.
class Kernels {
 public:
  virtual ~Kernels() = default;

  // y = f(x); dx = f'(x, y) * dy. All of one shape and dtype, any strides.
  virtual void unary(Elementwise op, const View& x, const View& y) = 0;
  virtual void unary_backward(Elementwise op, const View& x, const View& y, const View& dy,
                              const View& dx, double beta) = 0;
  // out = f(a, b), operands already expanded (stride 0) to the shape of `out`.
  // d = df/d(operand) * dy, in the shape of `out`.
  virtual void binary(Elementwise op, const View& a, const View& b, const View& out) = 0;
  virtual void binary_backward(Elementwise op, int operand, const View& a, const View& b,
                               const View& out, const View& dy, const View& d, double beta) = 0;
  // out is bool.
  virtual void compare(Elementwise op, const View& a, const View& b, const View& out) = 0;
  // out = condition ? a : b; condition is bool.
  virtual void where(const View& condition, const View& a, const View& b, const View& out) = 0;

  // to = from, converting the dtype as C++ does (floats to integers truncate; to bool: != 0).
  virtual void copy(const View& from, const View& to) = 0;
  virtual void fill(const View& to, double value) = 0;
  // y = alpha * x + beta * y, of one floating dtype.
  virtual void scale_add(double alpha, const View& x, double beta, const View& y) = 0;

  // y has x's rank, with size 1 in the reduced dimensions (any set of them). Sums of 16-bit and
  // f32 values are carried in blocks (pairwise), so that the error grows with the log of the size.
  virtual void reduce(ReduceOp op, const View& x, const View& y, double beta) = 0;

  // c[..., m, n] = a[..., m, k] @ b[..., k, n] + beta * c. Equal leading dimensions (stride 0 where
  // broadcast). Of the last two strides of each one is 1 and the other at least the dimension.
  virtual void matmul(const View& a, const View& b, const View& c, double beta) = 0;

  // Row-wise kernels work on [rows, width], contiguous; statistics are [rows] in f32 (f64 for f64).
  virtual void softmax(const View& x, const View& y, bool log) = 0;
  virtual void softmax_backward(const View& y, const View& dy, const View& dx, bool log,
                                double beta) = 0;
  virtual void layer_norm(const View& x, const View& weight, const View& bias, double epsilon,
                          const View& y, const View& mean, const View& inverse_deviation) = 0;
  // Any of dx, dweight, dbias may have no data: not wanted. Each has its own beta.
  virtual void layer_norm_backward(const View& dy, const View& x, const View& weight,
                                   const View& mean, const View& inverse_deviation, const View& dx,
                                   const View& dweight, const View& dbias,
                                   const double beta[3]) = 0;
  // logits [rows, classes], targets [rows] i64; a row whose target is `ignore` has loss 0.
  // loss and log_sum_exp are [rows] in f32 (f64 for f64).
  virtual void cross_entropy(const View& logits, const View& targets, int64_t ignore,
                             const View& loss, const View& log_sum_exp) = 0;
  // dlogits = (softmax(logits) - one_hot(target)) * dloss of the row.
  virtual void cross_entropy_backward(const View& logits, const View& targets, int64_t ignore,
                                      const View& log_sum_exp, const View& dloss,
                                      const View& dlogits, double beta) = 0;

  // out[i, :] = table[ids[i], :]; ids i64, in range.
  virtual void embedding(const View& table, const View& ids, const View& out) = 0;
  // dtable[ids[i], :] += dy[i, :] in the order of i, after dtable *= beta.
  virtual void embedding_backward(const View& dy, const View& ids, const View& dtable,
                                  double beta) = 0;
  // Smallest and largest of a non-empty contiguous i64 view, for range checks before indexing.
  virtual void extent(const View& ids, int64_t* smallest, int64_t* largest) = 0;

  // q, k, v, out: [batch, heads, time, feature], feature stride 1, others free.
  // log_sum_exp: [batch, heads, queries] contiguous, f32 (f64 for f64). Probabilities are made
  // again in backward, never kept.
  virtual void attention(const View& q, const View& k, const View& v, AttentionOptions options,
                         const View& out, const View& log_sum_exp) = 0;
  // Overwrites dq, dk, dv (same windows as q, k, v; they may interleave in memory).
  virtual void attention_backward(const View& dout, const View& q, const View& k, const View& v,
                                  const View& out, const View& log_sum_exp,
                                  AttentionOptions options, const View& dq, const View& dk,
                                  const View& dv) = 0;

  // y = x * mask / (1 - p), contiguous, with mask drawn from `key`; dimension 0 counts samples.
  // The backward pass is the same call on dy.
  virtual void dropout(const View& x, double p, RandomKey key, const View& y, double beta) = 0;
  // Contiguous fills: U[low, high) and N(mean, deviation), element i a function of (key, first +
  // i).
  virtual void uniform(const View& y, double low, double high, RandomKey key, uint64_t first) = 0;
  virtual void normal(const View& y, double mean, double deviation, RandomKey key,
                      uint64_t first) = 0;

  // Optimizer updates over many runs at once, in place.
  virtual void adam(const UpdateRun* runs, int count, const AdamOptions& options) = 0;
  virtual void sgd(const UpdateRun* runs, int count, const SgdOptions& options) = 0;
  // Sum of squares of a contiguous floating view, in double, in an order that depends on its length
  // alone. Infinity or NaN among the values shows as such in the result.
  virtual double sum_of_squares(const View& x) = 0;
};

}  // namespace lockstep
