#pragma once

#include <cstdint>

#include "lockstep/runtime/array.h"
#include "lockstep/runtime/kernels.h"
#include "lockstep/runtime/ops/into.h"

namespace lockstep::kernels {

// What statistics of values of a dtype are kept in: f64 for f64, f32 for the others.
DType statistics_dtype(DType dtype);

// Over the last dimension.
Array softmax(const Array& x, bool log);
Array softmax_backward(const Array& y, const Array& dy, bool log, Into into);

// (x - mean) / sqrt(var + epsilon) * weight + bias over the last dimension (Ba et al. 2016); weight
// and bias, of any floating dtype, may be empty. Statistics are one a row. y has `dtype`: x's or,
// of an f32 x, a 16-bit one. Where there is a delta, of x's shape and any floating dtype, x + delta
// in x's dtype takes the place of x.
struct LayerNorm {
  Array y;
  Array mean;
  Array inverse_deviation;
  Array sum;  // x + delta, where there is a delta
};
LayerNorm layer_norm(const Array& x, const Array& delta, const Array& weight, const Array& bias,
                     double epsilon, DType dtype);

// Gradients of x, weight and bias, each where it is wanted. An offer that is declined is none.
struct LayerNormWanted {
  bool x = false, weight = false, bias = false;
  Into into_x = {}, into_weight = {}, into_bias = {};
  DType bias_dtype = DType::f32;
  // Of a sum, which is the x below: what else is added to x's gradient (then into_x is not looked
  // at), and whether that is wanted once more in this dtype, of 16 bits beside an f32 x.
  Array dsum = {};
  bool delta = false;
  DType delta_dtype = DType::bf16;
};
struct LayerNormGradients {
  Array x, weight, bias, delta;
};
LayerNormGradients layer_norm_backward(const Array& dy, const Array& x, const Array& weight,
                                       const LayerNorm& saved, const LayerNormWanted& wanted);

// x / sqrt(mean(x^2) + epsilon) * weight over the last dimension (Zhang & Sennrich 2019).
struct RmsNorm {
  Array y;
  Array inverse_rms;
};
RmsNorm rms_norm(const Array& x, const Array& weight, double epsilon);
// As layer_norm_backward; there is no bias.
LayerNormGradients rms_norm_backward(const Array& dy, const Array& x, const Array& weight,
                                     const Array& inverse_rms, const LayerNormWanted& wanted);

// logits [rows, classes], targets [rows] i64 in [0, classes) or `ignore`. Loss and log-sum-exp of
// each row in f32 (f64 for f64). Throws Error for a target out of range. Rows may lie apart.
struct CrossEntropy {
  Array loss;
  Array log_sum_exp;
};
CrossEntropy cross_entropy(const Array& logits, const Array& targets, int64_t ignore);
// Of losses as cross_entropy gives them: [2], the mean of those whose target is not ignored, and 1
// / their number.
Array mean_loss(const Array& loss, const Array& targets, int64_t ignore);
// Of the logits. The offer may be their own memory, where its rows do not overlap and beta is 0.
Array cross_entropy_backward(const Array& logits, const Array& targets, int64_t ignore,
                             const Array& log_sum_exp, const Array& dloss, Into into);

// table [count, width], ids of any shape, i64 -> [ids…, width]. Throws Error for an id out of
// range.
Array embedding(const Array& table, const Array& ids);
Array embedding_backward(const Array& dy, const Array& ids, const Shape& table, Into into);

// q, k, v: [batch, heads, time, feature]; bias broadcasts to [batch, heads, query, key], is added
// to the scaled scores and may be empty. The output is [batch, heads, time, feature], laid out in
// memory as [batch, time, heads, feature], so that joining the heads copies nothing.
struct Attention {
  Array out;
  Array log_sum_exp;  // [batch, heads, queries]
};
Attention attention(const Array& q, const Array& k, const Array& v, AttentionOptions options,
                    const Array& bias = {});
// Writes dq, dk, dv, which have the shapes of q, k, v.
void attention_backward(const Array& dout, const Array& q, const Array& k, const Array& v,
                        const Attention& saved, AttentionOptions options, const Array& bias,
                        const Array& dq, const Array& dk, const Array& dv);

Array dropout(const Array& x, double p, RandomKey key, Into into = {});

}  // namespace lockstep::kernels
