#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::cpu {

// The CPU's kernels, on the loops of one instruction level. Stateless: any thread may call.
class CpuKernels final : public Kernels {
 public:
  explicit CpuKernels(const Loops& loops);

  bool multiplies_in(DType dtype) const override;
  void unary(Elementwise op, const View& x, const View& y) override;
  void unary_backward(Elementwise op, const View& x, const View& y, const View& dy, const View& dx,
                      double beta) override;
  void binary(Elementwise op, const View& a, const View& b, const View& out) override;
  void binary_backward(Elementwise op, int operand, const View& a, const View& b, const View& out,
                       const View& dy, const View& d, double beta) override;
  void compare(Elementwise op, const View& a, const View& b, const View& out) override;
  void where(const View& condition, const View& a, const View& b, const View& out) override;
  void copy(const View& from, const View& to) override;
  void fill(const View& to, double value) override;
  void scale_add(double alpha, const View& x, double beta, const View& y) override;
  void reduce(ReduceOp op, const View& x, const View& y, double beta) override;
  void matmul(const View& a, const View& b, const View& c, double beta) override;
  void linear(const View& x, const View& w, const View& bias, const View& y) override;
  void linear_activation(const View& x, const View& w, const View& bias, Elementwise op,
                         const View& before, const View& y) override;
  void linear_activation_backward(const View& dy, const View& w, Elementwise op, const View& before,
                                  const View& d, const View& dbias, double beta) override;
  void linear_weight_gradient(const View& dy, const View& x, const View& dw, const View& dbias,
                              const double beta[2]) override;
  void arg_reduce(bool largest, const View& x, int dim, const View& index) override;
  void recurrence(const View& a, const View& b, int dim, bool reverse, const View& s) override;
  void sort(const View& x, bool descending, const View& index) override;
  void gather(const View& x, int dim, const View& index, const View& out) override;
  void scatter_add(const View& x, int dim, const View& index, const View& out) override;
  int64_t nonzero(const View& mask, const View& positions) override;
  void convolution(const View& x, const View& w, const WindowOptions& options,
                   const View& y) override;
  void convolution_input_gradient(const View& dy, const View& w, const WindowOptions& options,
                                  const View& dx, double beta) override;
  void convolution_weight_gradient(const View& dy, const View& x, const WindowOptions& options,
                                   const View& dw, double beta) override;
  void max_pool(const View& x, const WindowOptions& options, const View& y,
                const View& index) override;
  void max_pool_backward(const View& dy, const View& index, const WindowOptions& options,
                         const View& dx) override;
  void resample(const View& x, int dim, const SparseRows& matrix, const View& y) override;
  void channel_moments(const View& x, const View& mean, const View& variance) override;
  void channel_norm(const View& mean, const View& variance, const ChannelNorm& norm) override;
  void channel_norm_backward(const View& mean, const View& inverse, const View& scale,
                             const View& sum, const View& product_sum, double share,
                             const View& slope, const View& shift, const View& dweight) override;
  void channel_affine(const View& x, const View& scale, const View& shift, const View& residual,
                      bool relu, const View& y) override;
  void channel_gradient_sums(const View& dy, const View& x, const View& mean,
                             const ChannelGate& gate, const View& gated, const View& sum,
                             const View& product_sum) override;
  void channel_input_gradient(const View& dy, const View& x, const View& scale,
                              const ChannelGate& gate, const View& slope, const View& shift,
                              const View& dx) override;
  void rms_norm(const View& x, const View& weight, double epsilon, const View& y,
                const View& inverse_rms) override;
  void rms_norm_backward(const View& dy, const View& x, const View& weight, const View& inverse_rms,
                         const View& dx, const View& dweight, const double beta[2]) override;
  void softmax(const View& x, const View& y, bool log) override;
  void softmax_backward(const View& y, const View& dy, const View& dx, bool log,
                        double beta) override;
  void layer_norm(const View& x, const ResidualSum& residual, const View& weight, const View& bias,
                  double epsilon, const View& y, const View& mean,
                  const View& inverse_deviation) override;
  void layer_norm_backward(const View& dy, const View& x, const View& weight, const View& mean,
                           const View& inverse_deviation, const ResidualGradient& residual,
                           const View& dx, const View& dweight, const View& dbias,
                           const double beta[3]) override;
  void cross_entropy(const View& logits, const View& targets, int64_t ignore, const View& loss,
                     const View& log_sum_exp) override;
  void mean_loss(const View& loss, const View& targets, int64_t ignore,
                 const View& result) override;
  void cross_entropy_backward(const View& logits, const View& targets, int64_t ignore,
                              const View& log_sum_exp, const View& dloss, const View& dlogits,
                              double beta) override;
  void embedding(const View& table, const View& ids, const View& out) override;
  void embedding_backward(const View& dy, const View& ids, const View& dtable,
                          double beta) override;
  void extent(const View& ids, int64_t* smallest, int64_t* largest) override;
  void attention(const View& q, const View& k, const View& v, AttentionOptions options,
                 const View& out, const View& log_sum_exp) override;
  void attention_backward(const View& dout, const View& q, const View& k, const View& v,
                          const View& out, const View& log_sum_exp, AttentionOptions options,
                          const View& dq, const View& dk, const View& dv) override;
  void dropout(const View& x, double p, RandomKey key, const View& y, double beta) override;
  void uniform(const View& y, double low, double high, RandomKey key, uint64_t first) override;
  void normal(const View& y, double mean, double deviation, RandomKey key, uint64_t first) override;
  void update(int op, const UpdateRun* runs, int count) override;
  double sum_of_squares(const View& x) override;
  void sums_of_squares(const View* x, int count, double* sums) override;

 private:
  const Loops& loops_;
};

}  // namespace lockstep::cpu
