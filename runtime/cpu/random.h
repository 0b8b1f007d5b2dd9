#pragma once

#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::cpu {

// Philox's counter is (block, operation, sample, step), its key the seed. Dropout takes one word an
// element, counted within its sample. The fills take two words an element, 53 bits, so that every
// dtype gets the same number; their block is 64 bits wide, its high half added to the sample.
void dropout(const Loops& loops, const View& x, double p, RandomKey key, const View& y,
             double beta);
void uniform(const Loops& loops, const View& y, double low, double high, RandomKey key,
             uint64_t first);
void normal(const Loops& loops, const View& y, double mean, double deviation, RandomKey key,
            uint64_t first);

}  // namespace lockstep::cpu
