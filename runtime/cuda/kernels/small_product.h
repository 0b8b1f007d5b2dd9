#pragma once

#include "lockstep/runtime/cuda/blas.h"
#include "lockstep/runtime/cuda/queue.h"

// Products of f32 matrices with small results, which take a few microseconds: all of a product,
// the bias's gradient included, is one kernel, and the multiprocessors share its result.
namespace lockstep::cuda {

// The result is cut in tiles, one a block: 8 x 8, 16 x 16, 32 x 32 or 64 x 32. Which of them is
// fastest depends on the shape; each adds the terms of a sum in a fixed order of its own.
inline constexpr int kSmallProductTilings = 4;

// Whether it has this product, and no more blocks than pay for this tiling. Its epilogues are none,
// bias, relu and bias_gradient.
bool has_small_product(const Product& p, int tiling);

void small_product(const Product& p, int tiling, Queue& queue);

}  // namespace lockstep::cuda
