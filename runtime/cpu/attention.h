#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::cpu {

void attention(const Loops& loops, const View& q, const View& k, const View& v,
               AttentionOptions options, const View& out, const View& log_sum_exp);
void attention_backward(const Loops& loops, const View& dout, const View& q, const View& k,
                        const View& v, const View& out, const View& log_sum_exp,
                        AttentionOptions options, const View& dq, const View& dk, const View& dv);

}  // namespace lockstep::cpu
