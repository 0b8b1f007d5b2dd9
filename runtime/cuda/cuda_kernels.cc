#include "lockstep/runtime/cuda/cuda_kernels.h"

#include "lockstep/runtime/cuda/attention.h"
#include "lockstep/runtime/cuda/convolution.h"
#include "lockstep/runtime/cuda/kernels/channels.h"
#include "lockstep/runtime/cuda/kernels/cross_entropy.h"
#include "lockstep/runtime/cuda/kernels/elementwise.h"
#include "lockstep/runtime/cuda/kernels/index.h"
#include "lockstep/runtime/cuda/kernels/layer_norm.h"
#include "lockstep/runtime/cuda/kernels/random.h"
#include "lockstep/runtime/cuda/kernels/reduce.h"
#include "lockstep/runtime/cuda/kernels/softmax.h"
#include "lockstep/runtime/cuda/kernels/update.h"
#include "lockstep/runtime/cuda/matmul.h"
#include "lockstep/runtime/cuda/sort.h"

namespace lockstep::cuda {

void CudaKernels::unary(Elementwise op, const View& x, const View& y) {
  cuda::unary(op, x, y, queue_);
}

void CudaKernels::unary_backward(Elementwise op, const View& x, const View& y, const View& dy,
                                 const View& dx, double beta) {
  cuda::unary_backward(op, x, y, dy, dx, beta, queue_);
}

void CudaKernels::binary(Elementwise op, const View& a, const View& b, const View& out) {
  cuda::binary(op, a, b, out, queue_);
}

void CudaKernels::binary_backward(Elementwise op, int operand, const View& a, const View& b,
                                  const View& out, const View& dy, const View& d, double beta) {
  cuda::binary_backward(op, operand, a, b, out, dy, d, beta, queue_);
}

void CudaKernels::compare(Elementwise op, const View& a, const View& b, const View& out) {
  cuda::compare(op, a, b, out, queue_);
}

void CudaKernels::where(const View& condition, const View& a, const View& b, const View& out) {
  cuda::where(condition, a, b, out, queue_);
}

void CudaKernels::copy(const View& from, const View& to) { cuda::copy(from, to, queue_); }

void CudaKernels::fill(const View& to, double value) { cuda::fill(to, value, queue_); }

void CudaKernels::scale_add(double alpha, const View& x, double beta, const View& y) {
  cuda::scale_add(alpha, x, beta, y, queue_);
}

void CudaKernels::reduce(ReduceOp op, const View& x, const View& y, double beta) {
  cuda::reduce(op, x, y, beta, queue_);
}

void CudaKernels::linear(const View& x, const View& w, const View& bias, const View& y) {
  cuda::linear(x, w, bias, y, queue_);
}

void CudaKernels::linear_activation(const View& x, const View& w, const View& bias, Elementwise op,
                                    const View& before, const View& y) {
  cuda::linear_activation(x, w, bias, op, before, y, queue_);
}

void CudaKernels::linear_activation_backward(const View& dy, const View& w, Elementwise op,
                                             const View& before, const View& d, const View& dbias,
                                             double beta) {
  cuda::linear_activation_backward(dy, w, op, before, d, dbias, beta, queue_);
}

void CudaKernels::linear_weight_gradient(const View& dy, const View& x, const View& dw,
                                         const View& dbias, const double beta[2]) {
  cuda::linear_weight_gradient(dy, x, dw, dbias, beta, queue_);
}

void CudaKernels::matmul(const View& a, const View& b, const View& c, double beta) {
  cuda::matmul(a, b, c, beta, queue_);
}

void CudaKernels::arg_reduce(bool largest, const View& x, int dim, const View& index) {
  cuda::arg_reduce(largest, x, dim, index, queue_);
}

void CudaKernels::recurrence(const View& a, const View& b, int dim, bool reverse, const View& s) {
  cuda::recurrence(a, b, dim, reverse, s, queue_);
}

void CudaKernels::sort(const View& x, bool descending, const View& index) {
  cuda::sort(x, descending, index, queue_);
}

void CudaKernels::gather(const View& x, int dim, const View& index, const View& out) {
  cuda::gather(x, dim, index, out, queue_);
}

void CudaKernels::scatter_add(const View& x, int dim, const View& index, const View& out) {
  cuda::scatter_add(x, dim, index, out, queue_);
}

int64_t CudaKernels::nonzero(const View& mask, const View& positions) {
  return cuda::nonzero(mask, positions, queue_);
}

void CudaKernels::convolution(const View& x, const View& w, const WindowOptions& options,
                              const View& y) {
  cuda::convolution(x, w, options, y, queue_);
}

void CudaKernels::convolution_input_gradient(const View& dy, const View& w,
                                             const WindowOptions& options, const View& dx,
                                             double beta) {
  cuda::convolution_input_gradient(dy, w, options, dx, beta, queue_);
}

void CudaKernels::convolution_weight_gradient(const View& dy, const View& x,
                                              const WindowOptions& options, const View& dw,
                                              double beta) {
  cuda::convolution_weight_gradient(dy, x, options, dw, beta, queue_);
}

void CudaKernels::max_pool(const View& x, const WindowOptions& options, const View& y,
                           const View& index) {
  cuda::max_pool(x, options, y, index, queue_);
}

void CudaKernels::max_pool_backward(const View& dy, const View& index, const WindowOptions& options,
                                    const View& dx) {
  cuda::max_pool_backward(dy, index, options, dx, queue_);
}

void CudaKernels::resample(const View& x, int dim, const SparseRows& matrix, const View& y) {
  cuda::resample(x, dim, matrix, y, queue_);
}

void CudaKernels::channel_moments(const View& x, const View& mean, const View& variance) {
  cuda::channel_moments(x, mean, variance, queue_);
}

void CudaKernels::channel_norm(const View& mean, const View& variance, const ChannelNorm& norm) {
  cuda::channel_norm(mean, variance, norm, queue_);
}

void CudaKernels::channel_norm_backward(const View& mean, const View& inverse, const View& scale,
                                        const View& sum, const View& product_sum, double share,
                                        const View& slope, const View& shift, const View& dweight) {
  cuda::channel_norm_backward(mean, inverse, scale, sum, product_sum, share, slope, shift, dweight,
                              queue_);
}

void CudaKernels::channel_affine(const View& x, const View& scale, const View& shift,
                                 const View& residual, bool relu, const View& y) {
  cuda::channel_affine(x, scale, shift, residual, relu, y, queue_);
}

void CudaKernels::channel_gradient_sums(const View& dy, const View& x, const View& mean,
                                        const ChannelGate& gate, const View& gated, const View& sum,
                                        const View& product_sum) {
  cuda::channel_gradient_sums(dy, x, mean, gate, gated, sum, product_sum, queue_);
}

void CudaKernels::channel_input_gradient(const View& dy, const View& x, const View& scale,
                                         const ChannelGate& gate, const View& slope,
                                         const View& shift, const View& dx) {
  cuda::channel_input_gradient(dy, x, scale, gate, slope, shift, dx, queue_);
}

void CudaKernels::rms_norm(const View& x, const View& weight, double epsilon, const View& y,
                           const View& inverse_rms) {
  cuda::rms_norm(x, weight, epsilon, y, inverse_rms, queue_);
}

void CudaKernels::rms_norm_backward(const View& dy, const View& x, const View& weight,
                                    const View& inverse_rms, const View& dx, const View& dweight,
                                    const double beta[2]) {
  cuda::rms_norm_backward(dy, x, weight, inverse_rms, dx, dweight, beta, queue_);
}

void CudaKernels::softmax(const View& x, const View& y, bool log) {
  cuda::softmax(x, y, log, queue_);
}

void CudaKernels::softmax_backward(const View& y, const View& dy, const View& dx, bool log,
                                   double beta) {
  cuda::softmax_backward(y, dy, dx, log, beta, queue_);
}

void CudaKernels::layer_norm(const View& x, const ResidualSum& residual, const View& weight,
                             const View& bias, double epsilon, const View& y, const View& mean,
                             const View& inverse_deviation) {
  cuda::layer_norm(x, residual, weight, bias, epsilon, y, mean, inverse_deviation, queue_);
}

void CudaKernels::layer_norm_backward(const View& dy, const View& x, const View& weight,
                                      const View& mean, const View& inverse_deviation,
                                      const ResidualGradient& residual, const View& dx,
                                      const View& dweight, const View& dbias,
                                      const double beta[3]) {
  cuda::layer_norm_backward(dy, x, weight, mean, inverse_deviation, residual, dx, dweight, dbias,
                            beta, queue_);
}

void CudaKernels::cross_entropy(const View& logits, const View& targets, int64_t ignore,
                                const View& loss, const View& log_sum_exp) {
  cuda::cross_entropy(logits, targets, ignore, loss, log_sum_exp, queue_);
}

void CudaKernels::mean_loss(const View& loss, const View& targets, int64_t ignore,
                            const View& result) {
  cuda::mean_loss(loss, targets, ignore, result, queue_);
}

void CudaKernels::cross_entropy_backward(const View& logits, const View& targets, int64_t ignore,
                                         const View& log_sum_exp, const View& dloss,
                                         const View& dlogits, double beta) {
  cuda::cross_entropy_backward(logits, targets, ignore, log_sum_exp, dloss, dlogits, beta, queue_);
}

void CudaKernels::embedding(const View& table, const View& ids, const View& out) {
  cuda::embedding(table, ids, out, queue_);
}

void CudaKernels::embedding_backward(const View& dy, const View& ids, const View& dtable,
                                     double beta) {
  cuda::embedding_backward(dy, ids, dtable, beta, queue_);
}

void CudaKernels::extent(const View& ids, int64_t* smallest, int64_t* largest) {
  cuda::extent(ids, smallest, largest, queue_);
}

void CudaKernels::attention(const View& q, const View& k, const View& v, AttentionOptions options,
                            const View& out, const View& log_sum_exp) {
  cuda::attention(q, k, v, options, out, log_sum_exp, queue_);
}

void CudaKernels::attention_backward(const View& dout, const View& q, const View& k, const View& v,
                                     const View& out, const View& log_sum_exp,
                                     AttentionOptions options, const View& dq, const View& dk,
                                     const View& dv) {
  cuda::attention_backward(dout, q, k, v, out, log_sum_exp, options, dq, dk, dv, queue_);
}

void CudaKernels::dropout(const View& x, double p, RandomKey key, const View& y, double beta) {
  cuda::dropout(x, p, key, y, beta, queue_);
}

void CudaKernels::uniform(const View& y, double low, double high, RandomKey key, uint64_t first) {
  cuda::uniform(y, low, high, key, first, queue_);
}

void CudaKernels::normal(const View& y, double mean, double deviation, RandomKey key,
                         uint64_t first) {
  cuda::normal(y, mean, deviation, key, first, queue_);
}

void CudaKernels::update(int op, const UpdateRun* runs, int count) {
  cuda::update(op, runs, count, queue_);
}

double CudaKernels::sum_of_squares(const View& x) { return cuda::sum_of_squares(x, queue_); }

void CudaKernels::sums_of_squares(const View* x, int count, double* sums) {
  cuda::sums_of_squares(x, count, sums, queue_);
}

}  // namespace lockstep::cuda
