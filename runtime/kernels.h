#pragma once

#include <cstdint>

#include "lockstep/runtime/reduce_op.h"
#include "lockstep/runtime/view.h"

namespace lockstep {

// An elementwise function: its place in the device's table (the functor's index in its type list,
// see runtime/math/) and the functor's data members in order.
struct Elementwise {
  int index = 0;
  double attributes[2] = {0, 0};
};

// Where random numbers come from. A value depends on the seed, the step, the operation and, for
// each element, the global index of its sample and its place within the sample: not on how a batch
// was cut over ranks or micro-batches.
struct RandomKey {
  uint64_t seed = 0;
  uint32_t step = 0;
  uint32_t operation = 0;     // counts random operations within a step
  uint32_t first_sample = 0;  // global index of row 0 of dimension 0
};

// Of a convolution or a pooling window, one entry for each of `spatial` dimensions. What lies past
// the end on the far side is padding too: the output's size says how far the window goes.
struct WindowOptions {
  static constexpr int kMost = 3;
  int spatial = 2;
  int64_t kernel[kMost] = {1, 1, 1};  // a convolution's is its weight's
  int64_t stride[kMost] = {1, 1, 1};
  int64_t padding[kMost] = {0, 0, 0};  // before the first element
  int64_t dilation[kMost] = {1, 1, 1};
  int64_t groups = 1;
};

// A sparse matrix in compressed rows: y_i = sum over starts[i] <= t < starts[i + 1] of
// weights[t] * x[columns[t]]. i64, i64 and f64, contiguous, on the device.
struct SparseRows {
  View starts;
  View columns;
  View weights;
};

// Softmax attention over [batch, heads, query, feature] windows; the feature stride is 1.
struct AttentionOptions {
  bool causal = true;  // query i sees keys 0 … i
  double scale = 1.0;
  // Floating, [batch, heads, query, key], any strides: added to the scaled scores; no data: none.
  // -inf hides a key. A query that sees no key gets zeros.
  View bias = {};
};

// What layer_norm adds to x before it normalizes: sum = x + delta, rounded to x's dtype, which is
// sum's too; delta is of any floating dtype. No data: nothing is added.
struct ResidualSum {
  View delta = {};
  View sum = {};
};

// Where the gradient of a ReLU goes on: not where its value is zero or less, NaN is neither. That
// is x * scale + shift, of the channel, or what `output` has, laid out as it likes. Neither:
// everywhere.
struct ChannelGate {
  View scale = {};
  View shift = {};
  View output = {};
};

// What batch normalization makes of a channel's mean and variance: inverse = 1 / sqrt(variance +
// epsilon), scale = inverse * weight, shift = bias - mean * scale, and the running ones moved by
// `momentum` towards them, the variance times `unbiased`. All are [channels]; weight, bias and the
// running ones are of any floating dtype and may be absent.
struct ChannelNorm {
  View weight = {};
  View bias = {};
  View inverse = {};
  View scale = {};
  View shift = {};
  View running_mean = {};
  View running_variance = {};
  double epsilon = 0;
  double momentum = 0;
  double unbiased = 1;
};

// How the gradient of x, where that is such a sum, goes on. dsum, of x's dtype: the gradient of the
// sum's other uses. ddelta, of 16 bits beside an f32 x: dx once more, rounded. Either may be
// absent.
struct ResidualGradient {
  View dsum = {};
  View ddelta = {};
};

// A run of an optimizer's update: `elements` consecutive values of each array, all of one floating
// dtype (16-bit ones are computed in f32). Where `copy` is set, the updated parameter is also
// written there in 16 bits; it overlaps none of the others.
struct UpdateRun {
  static constexpr int kStates = 3;
  static constexpr int kConstants = 9;
  void* parameter = nullptr;
  const void* gradient = nullptr;
  void* state[kStates] = {};  // as many as the functor has
  int64_t elements = 0;
  DType dtype = DType::f32;
  void* copy = nullptr;
  DType copy_dtype = DType::bf16;
  double constants[kConstants] = {};  // the functor's data members in order
};

// What one device computes. Pure virtual without exception: a device that lacks a kernel does not
// build. Callers (runtime/ops) have checked shapes, dtypes and devices: kernels check nothing.
// Where a kernel takes `beta`, it computes out = result + beta * out, and beta 0 ignores what was
// there (NaN included). Empty views are legal. Calls come from one thread per stream.
class Kernels {
 public:
  virtual ~Kernels() = default;

  // Whether matrix products of this floating dtype are the device's own. Otherwise they are
  // computed in f32, and operands and result are converted.
  virtual bool multiplies_in(DType dtype) const = 0;

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

  // index: i64, x's rank, size 1 in `dim`: the first of the largest (smallest) elements there, or
  // the first NaN. x has elements in `dim`.
  virtual void arg_reduce(bool largest, const View& x, int dim, const View& index) = 0;
  // The linear recurrence s_i = b_i + a_i s_{i-1} along `dim`, with s_{-1} = 0, or from the far end
  // (s_{i+1} instead) when `reverse`. a, b and s have one shape and dtype, any strides; a without
  // data is 1 everywhere. The running value is kept in double (integers: exactly).
  virtual void recurrence(const View& a, const View& b, int dim, bool reverse, const View& s) = 0;
  // x [rows, width] and index [rows, k <= width] i64, contiguous: the places of the k first
  // elements of each row in ascending (descending) order. Equal ones keep their order; NaN counts
  // as the largest.
  virtual void sort(const View& x, bool descending, const View& index) = 0;

  // out[.., i, ..] = x[.., index[.., i, ..], ..] along `dim`: index (i64, in range) and out have
  // one shape, x that shape except in `dim`. Any strides.
  virtual void gather(const View& x, int dim, const View& index, const View& out) = 0;
  // out[.., index[.., i, ..], ..] += x[.., i, ..] in the order of i.
  virtual void scatter_add(const View& x, int dim, const View& index, const View& out) = 0;
  // The row-major places of what is true in a contiguous bool view, i64, into `positions` as far as
  // it goes; returns how many there are.
  virtual int64_t nonzero(const View& mask, const View& positions) = 0;

  // c[..., m, n] = a[..., m, k] @ b[..., k, n] + beta * c. Equal leading dimensions (stride 0 where
  // broadcast). Of the last two strides of each one is 1 and the other at least the dimension. c
  // may be f32 where a and b are of 16 bits.
  virtual void matmul(const View& a, const View& b, const View& c, double beta) = 0;
  // y [rows, out] = x [rows, in] @ w' + bias: w [out, in] and bias [out], or without data; of one
  // dtype, each row of y dense.
  virtual void linear(const View& x, const View& w, const View& bias, const View& y) = 0;
  // y = f(x @ w' + bias), otherwise as linear; the derivative of f reads its operand alone. Where
  // `before`, laid out as y, has data, what went into f is kept there.
  virtual void linear_activation(const View& x, const View& w, const View& bias, Elementwise op,
                                 const View& before, const View& y) = 0;
  // d = (dy @ w) * f'(before): dy [rows, out], w [out, in], before and d [rows, in] with dense
  // rows, of one dtype. dbias [in] = the sums of d's columns + beta * dbias, of any floating dtype;
  // without data: not wanted.
  virtual void linear_activation_backward(const View& dy, const View& w, Elementwise op,
                                          const View& before, const View& d, const View& dbias,
                                          double beta) = 0;
  // dw [out, in] = dy' @ x + beta[0] * dw, and dbias [out] = the sums of dy's columns +
  // beta[1] * dbias, or without data; dw and dbias may be f32 where dy and x are of 16 bits.
  virtual void linear_weight_gradient(const View& dy, const View& x, const View& dw,
                                      const View& dbias, const double beta[2]) = 0;

  // Cross-correlation, as deep learning calls convolution: x [batch, in, spatial…],
  // w [out, in / groups, spatial…], y [batch, out, spatial…]; any strides (images are usually
  // channels-last). The three are each other's derivatives.
  virtual void convolution(const View& x, const View& w, const WindowOptions& options,
                           const View& y) = 0;
  virtual void convolution_input_gradient(const View& dy, const View& w,
                                          const WindowOptions& options, const View& dx,
                                          double beta) = 0;
  virtual void convolution_weight_gradient(const View& dy, const View& x,
                                           const WindowOptions& options, const View& dw,
                                           double beta) = 0;
  // The largest of each window, NaN above all, and its row-major place among the spatial elements
  // of x; padding is never chosen: -inf and -1 where a window sees nothing else. x, y [batch,
  // channels, spatial…], index i64 of y's shape.
  virtual void max_pool(const View& x, const WindowOptions& options, const View& y,
                        const View& index) = 0;
  // dx = the sum of dy of those windows whose largest element each one is, in the windows' order,
  // in f32 or after each in dx's dtype; index as max_pool gives it.
  virtual void max_pool_backward(const View& dy, const View& index, const WindowOptions& options,
                                 const View& dx) = 0;
  // y = the sparse matrix applied along `dim` of x. Averages and interpolations are made of it.
  virtual void resample(const View& x, int dim, const SparseRows& matrix, const View& y) = 0;

  // Of [batch, channels, inner] windows with any strides; what is of a channel is [channels] in f32
  // (f64 for f64). Mean and biased variance over batch and inner.
  virtual void channel_moments(const View& x, const View& mean, const View& variance) = 0;
  virtual void channel_norm(const View& mean, const View& variance, const ChannelNorm& norm) = 0;
  // Of sums over a channel's 1 / share values of g and of g * (x - mean), g the gradient of the
  // normalized and scaled: slope = -scale * inverse^2 * product_sum * share,
  // shift = -scale * sum * share - slope * mean, and dweight = product_sum * inverse, of any
  // floating dtype or absent.
  virtual void channel_norm_backward(const View& mean, const View& inverse, const View& scale,
                                     const View& sum, const View& product_sum, double share,
                                     const View& slope, const View& shift, const View& dweight) = 0;
  // y = x * scale + shift + residual, or max(0, that) with `relu` (NaN stays NaN); residual, of x's
  // dtype, may have no data.
  virtual void channel_affine(const View& x, const View& scale, const View& shift,
                              const View& residual, bool relu, const View& y) = 0;
  // The sums of g and of g * (x - mean) of each channel, where g is dy as far as the gate lets it
  // through; g is kept in `gated`, of dy's dtype, where that has data.
  virtual void channel_gradient_sums(const View& dy, const View& x, const View& mean,
                                     const ChannelGate& gate, const View& gated, const View& sum,
                                     const View& product_sum) = 0;
  // dx = g * scale + x * slope + shift, g as above, the last two together absent or not. The gate
  // has no output here.
  virtual void channel_input_gradient(const View& dy, const View& x, const View& scale,
                                      const ChannelGate& gate, const View& slope, const View& shift,
                                      const View& dx) = 0;

  // Row-wise kernels work on [rows, width], contiguous; statistics are [rows] in f32 (f64 for f64).
  virtual void softmax(const View& x, const View& y, bool log) = 0;
  virtual void softmax_backward(const View& y, const View& dy, const View& dx, bool log,
                                double beta) = 0;
  // y is of x's dtype or, of an f32 x, of 16 bits.
  virtual void layer_norm(const View& x, const ResidualSum& residual, const View& weight,
                          const View& bias, double epsilon, const View& y, const View& mean,
                          const View& inverse_deviation) = 0;
  // x: what was normalized; dy: of any floating dtype. Any of dx, dweight, dbias may have no data:
  // not wanted. Each has its own beta; where there is a dsum, it takes the place of beta * dx, and
  // may be dx's memory.
  virtual void layer_norm_backward(const View& dy, const View& x, const View& weight,
                                   const View& mean, const View& inverse_deviation,
                                   const ResidualGradient& residual, const View& dx,
                                   const View& dweight, const View& dbias,
                                   const double beta[3]) = 0;
  // y = x / sqrt(mean(x^2) + epsilon) * weight (Zhang & Sennrich 2019).
  virtual void rms_norm(const View& x, const View& weight, double epsilon, const View& y,
                        const View& inverse_rms) = 0;
  virtual void rms_norm_backward(const View& dy, const View& x, const View& weight,
                                 const View& inverse_rms, const View& dx, const View& dweight,
                                 const double beta[2]) = 0;
  // logits [rows, classes], targets [rows] i64; a row whose target is `ignore` has loss 0.
  // loss and log_sum_exp are [rows] in f32 (f64 for f64). Rows of logits and dlogits are dense and
  // lie any distance apart.
  virtual void cross_entropy(const View& logits, const View& targets, int64_t ignore,
                             const View& loss, const View& log_sum_exp) = 0;
  // result[0] = the mean of those losses whose target is not `ignore`, result[1] = 1 / their
  // number. Of loss's dtype, [2].
  virtual void mean_loss(const View& loss, const View& targets, int64_t ignore,
                         const View& result) = 0;
  // dlogits = (softmax(logits) - one_hot(target)) * dloss of the row; with beta 0 it may be written
  // over the logits.
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

  // An optimizer's update over many runs at once, in place. `op` is its place in math::UpdateOps
  // (runtime/math/update.h).
  virtual void update(int op, const UpdateRun* runs, int count) = 0;
  // Sum of squares of a contiguous floating view, in double, in an order that depends on its length
  // alone. Infinity or NaN among the values shows as such in the result.
  virtual double sum_of_squares(const View& x) = 0;
  // The same of each of several, with one wait for all.
  virtual void sums_of_squares(const View* x, int count, double* sums) = 0;
};

}  // namespace lockstep
