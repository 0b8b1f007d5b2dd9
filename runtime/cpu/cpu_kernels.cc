#include "lockstep/runtime/cpu/cpu_kernels.h"

#include "lockstep/runtime/cpu/attention.h"
#include "lockstep/runtime/cpu/channels.h"
#include "lockstep/runtime/cpu/convolution.h"
#include "lockstep/runtime/cpu/elementwise.h"
#include "lockstep/runtime/cpu/gather.h"
#include "lockstep/runtime/cpu/gemm.h"
#include "lockstep/runtime/cpu/matmul.h"
#include "lockstep/runtime/cpu/order.h"
#include "lockstep/runtime/cpu/pooling.h"
#include "lockstep/runtime/cpu/random.h"
#include "lockstep/runtime/cpu/recurrence.h"
#include "lockstep/runtime/cpu/reduce.h"
#include "lockstep/runtime/cpu/rows.h"
#include "lockstep/runtime/cpu/update.h"

namespace lockstep::cpu {

CpuKernels::CpuKernels(const Loops& loops) : loops_(loops) {}

void CpuKernels::unary(Elementwise op, const View& x, const View& y) {
  cpu::unary(loops_, op, x, y);
}

void CpuKernels::unary_backward(Elementwise op, const View& x, const View& y, const View& dy,
                                const View& dx, double beta) {
  cpu::unary_backward(loops_, op, x, y, dy, dx, beta);
}

void CpuKernels::binary(Elementwise op, const View& a, const View& b, const View& out) {
  cpu::binary(loops_, op, a, b, out);
}

void CpuKernels::binary_backward(Elementwise op, int operand, const View& a, const View& b,
                                 const View& out, const View& dy, const View& d, double beta) {
  cpu::binary_backward(loops_, op, operand, a, b, out, dy, d, beta);
}

void CpuKernels::compare(Elementwise op, const View& a, const View& b, const View& out) {
  cpu::compare(loops_, op, a, b, out);
}

void CpuKernels::where(const View& condition, const View& a, const View& b, const View& out) {
  cpu::where(loops_, condition, a, b, out);
}

void CpuKernels::copy(const View& from, const View& to) { cpu::copy(loops_, from, to); }

void CpuKernels::fill(const View& to, double value) { cpu::fill(loops_, to, value); }

void CpuKernels::scale_add(double alpha, const View& x, double beta, const View& y) {
  cpu::scale_add(loops_, alpha, x, beta, y);
}

void CpuKernels::reduce(ReduceOp op, const View& x, const View& y, double beta) {
  cpu::reduce(loops_, op, x, y, beta);
}

bool CpuKernels::multiplies_in(DType dtype) const { return cpu::multiplies_in(dtype); }

void CpuKernels::linear(const View& x, const View& w, const View& bias, const View& y) {
  cpu::linear(loops_, x, w, bias, y);
}

void CpuKernels::linear_activation(const View& x, const View& w, const View& bias, Elementwise op,
                                   const View& before, const View& y) {
  cpu::linear_activation(loops_, x, w, bias, op, before, y);
}

void CpuKernels::linear_activation_backward(const View& dy, const View& w, Elementwise op,
                                            const View& before, const View& d, const View& dbias,
                                            double beta) {
  cpu::linear_activation_backward(loops_, dy, w, op, before, d, dbias, beta);
}

void CpuKernels::linear_weight_gradient(const View& dy, const View& x, const View& dw,
                                        const View& dbias, const double beta[2]) {
  cpu::linear_weight_gradient(loops_, dy, x, dw, dbias, beta);
}

void CpuKernels::matmul(const View& a, const View& b, const View& c, double beta) {
  cpu::matmul(loops_, a, b, c, beta);
}

void CpuKernels::arg_reduce(bool largest, const View& x, int dim, const View& index) {
  cpu::arg_reduce(loops_, largest, x, dim, index);
}

void CpuKernels::recurrence(const View& a, const View& b, int dim, bool reverse, const View& s) {
  cpu::recurrence(loops_, a, b, dim, reverse, s);
}

void CpuKernels::sort(const View& x, bool descending, const View& index) {
  cpu::sort(loops_, x, descending, index);
}

void CpuKernels::gather(const View& x, int dim, const View& index, const View& out) {
  cpu::gather(loops_, x, dim, index, out);
}

void CpuKernels::scatter_add(const View& x, int dim, const View& index, const View& out) {
  cpu::scatter_add(loops_, x, dim, index, out);
}

int64_t CpuKernels::nonzero(const View& mask, const View& positions) {
  return cpu::nonzero(loops_, mask, positions);
}

void CpuKernels::convolution(const View& x, const View& w, const WindowOptions& options,
                             const View& y) {
  cpu::convolution(loops_, x, w, options, y);
}

void CpuKernels::convolution_input_gradient(const View& dy, const View& w,
                                            const WindowOptions& options, const View& dx,
                                            double beta) {
  cpu::convolution_input_gradient(loops_, dy, w, options, dx, beta);
}

void CpuKernels::convolution_weight_gradient(const View& dy, const View& x,
                                             const WindowOptions& options, const View& dw,
                                             double beta) {
  cpu::convolution_weight_gradient(loops_, dy, x, options, dw, beta);
}

void CpuKernels::max_pool(const View& x, const WindowOptions& options, const View& y,
                          const View& index) {
  cpu::max_pool(loops_, x, options, y, index);
}

void CpuKernels::max_pool_backward(const View& dy, const View& index, const WindowOptions&,
                                   const View& dx) {
  cpu::max_pool_backward(dy, index, dx);
}

void CpuKernels::resample(const View& x, int dim, const SparseRows& matrix, const View& y) {
  cpu::resample(loops_, x, dim, matrix, y);
}

void CpuKernels::channel_moments(const View& x, const View& mean, const View& variance) {
  cpu::channel_moments(loops_, x, mean, variance);
}

void CpuKernels::channel_norm(const View& mean, const View& variance, const ChannelNorm& norm) {
  cpu::channel_norm(mean, variance, norm);
}

void CpuKernels::channel_norm_backward(const View& mean, const View& inverse, const View& scale,
                                       const View& sum, const View& product_sum, double share,
                                       const View& slope, const View& shift, const View& dweight) {
  cpu::channel_norm_backward(mean, inverse, scale, sum, product_sum, share, slope, shift, dweight);
}

void CpuKernels::channel_affine(const View& x, const View& scale, const View& shift,
                                const View& residual, bool relu, const View& y) {
  cpu::channel_affine(loops_, x, scale, shift, residual, relu, y);
}

void CpuKernels::channel_gradient_sums(const View& dy, const View& x, const View& mean,
                                       const ChannelGate& gate, const View& gated, const View& sum,
                                       const View& product_sum) {
  cpu::channel_gradient_sums(loops_, dy, x, mean, gate, gated, sum, product_sum);
}

void CpuKernels::channel_input_gradient(const View& dy, const View& x, const View& scale,
                                        const ChannelGate& gate, const View& slope,
                                        const View& shift, const View& dx) {
  cpu::channel_input_gradient(loops_, dy, x, scale, gate, slope, shift, dx);
}

void CpuKernels::rms_norm(const View& x, const View& weight, double epsilon, const View& y,
                          const View& inverse_rms) {
  cpu::rms_norm(loops_, x, weight, epsilon, y, inverse_rms);
}

void CpuKernels::rms_norm_backward(const View& dy, const View& x, const View& weight,
                                   const View& inverse_rms, const View& dx, const View& dweight,
                                   const double beta[2]) {
  cpu::rms_norm_backward(loops_, dy, x, weight, inverse_rms, dx, dweight, beta);
}

void CpuKernels::softmax(const View& x, const View& y, bool log) {
  cpu::softmax(loops_, x, y, log);
}

void CpuKernels::softmax_backward(const View& y, const View& dy, const View& dx, bool log,
                                  double beta) {
  cpu::softmax_backward(loops_, y, dy, dx, log, beta);
}

void CpuKernels::layer_norm(const View& x, const ResidualSum& residual, const View& weight,
                            const View& bias, double epsilon, const View& y, const View& mean,
                            const View& inverse_deviation) {
  cpu::layer_norm(loops_, x, residual, weight, bias, epsilon, y, mean, inverse_deviation);
}

void CpuKernels::layer_norm_backward(const View& dy, const View& x, const View& weight,
                                     const View& mean, const View& inverse_deviation,
                                     const ResidualGradient& residual, const View& dx,
                                     const View& dweight, const View& dbias, const double beta[3]) {
  cpu::layer_norm_backward(loops_, dy, x, weight, mean, inverse_deviation, residual, dx, dweight,
                           dbias, beta);
}

void CpuKernels::cross_entropy(const View& logits, const View& targets, int64_t ignore,
                               const View& loss, const View& log_sum_exp) {
  cpu::cross_entropy(loops_, logits, targets, ignore, loss, log_sum_exp);
}

void CpuKernels::mean_loss(const View& loss, const View& targets, int64_t ignore,
                           const View& result) {
  cpu::mean_loss(loss, targets, ignore, result);
}

void CpuKernels::cross_entropy_backward(const View& logits, const View& targets, int64_t ignore,
                                        const View& log_sum_exp, const View& dloss,
                                        const View& dlogits, double beta) {
  cpu::cross_entropy_backward(loops_, logits, targets, ignore, log_sum_exp, dloss, dlogits, beta);
}

void CpuKernels::embedding(const View& table, const View& ids, const View& out) {
  cpu::embedding(loops_, table, ids, out);
}

void CpuKernels::embedding_backward(const View& dy, const View& ids, const View& dtable,
                                    double beta) {
  cpu::embedding_backward(loops_, dy, ids, dtable, beta);
}

void CpuKernels::extent(const View& ids, int64_t* smallest, int64_t* largest) {
  cpu::extent(ids, smallest, largest);
}

void CpuKernels::attention(const View& q, const View& k, const View& v, AttentionOptions options,
                           const View& out, const View& log_sum_exp) {
  cpu::attention(loops_, q, k, v, options, out, log_sum_exp);
}

void CpuKernels::attention_backward(const View& dout, const View& q, const View& k, const View& v,
                                    const View& out, const View& log_sum_exp,
                                    AttentionOptions options, const View& dq, const View& dk,
                                    const View& dv) {
  cpu::attention_backward(loops_, dout, q, k, v, out, log_sum_exp, options, dq, dk, dv);
}

void CpuKernels::dropout(const View& x, double p, RandomKey key, const View& y, double beta) {
  cpu::dropout(loops_, x, p, key, y, beta);
}

void CpuKernels::uniform(const View& y, double low, double high, RandomKey key, uint64_t first) {
  cpu::uniform(loops_, y, low, high, key, first);
}

void CpuKernels::normal(const View& y, double mean, double deviation, RandomKey key,
                        uint64_t first) {
  cpu::normal(loops_, y, mean, deviation, key, first);
}

void CpuKernels::update(int op, const UpdateRun* runs, int count) {
  cpu::update(loops_, op, runs, count);
}

double CpuKernels::sum_of_squares(const View& x) { return cpu::sum_of_squares(loops_, x); }

void CpuKernels::sums_of_squares(const View* x, int count, double* sums) {
  for (int i = 0; i < count; ++i) sums[i] = cpu::sum_of_squares(loops_, x[i]);
}

}  // namespace lockstep::cpu
