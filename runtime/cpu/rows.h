#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::cpu {

// The row-wise family of Kernels, on [rows, width]. 16-bit floats are converted row by row.
void softmax(const Loops& loops, const View& x, const View& y, bool log);
void softmax_backward(const Loops& loops, const View& y, const View& dy, const View& dx, bool log,
                      double beta);
void cross_entropy(const Loops& loops, const View& logits, const View& targets, int64_t ignore,
                   const View& loss, const View& log_sum_exp);
void mean_loss(const View& loss, const View& targets, int64_t ignore, const View& result);
void cross_entropy_backward(const Loops& loops, const View& logits, const View& targets,
                            int64_t ignore, const View& log_sum_exp, const View& dloss,
                            const View& dlogits, double beta);

void layer_norm(const Loops& loops, const View& x, const ResidualSum& residual, const View& weight,
                const View& bias, double epsilon, const View& y, const View& mean,
                const View& inverse_deviation);
void layer_norm_backward(const Loops& loops, const View& dy, const View& x, const View& weight,
                         const View& mean, const View& inverse_deviation,
                         const ResidualGradient& residual, const View& dx, const View& dweight,
                         const View& dbias, const double beta[3]);

void embedding(const Loops& loops, const View& table, const View& ids, const View& out);
void embedding_backward(const Loops& loops, const View& dy, const View& ids, const View& dtable,
                        double beta);
void extent(const View& ids, int64_t* smallest, int64_t* largest);

void rms_norm(const Loops& loops, const View& x, const View& weight, double epsilon, const View& y,
              const View& inverse_rms);
void rms_norm_backward(const Loops& loops, const View& dy, const View& x, const View& weight,
                       const View& inverse_rms, const View& dx, const View& dweight,
                       const double beta[2]);

}  // namespace lockstep::cpu
