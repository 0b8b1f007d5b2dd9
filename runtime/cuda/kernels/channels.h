#pragma once

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/kernels.h"

// Kernels of images: statistics of channels, and pooling. Arguments as in Kernels. Views of
// [batch, channels, inner] may have any strides; what lies channels-last or channels-first is read
// in 16-byte packs.
namespace lockstep::cuda {

void channel_moments(const View& x, const View& mean, const View& variance, Queue& queue);
void channel_affine(const View& x, const View& scale, const View& shift, const View& dy,
                    const View& dy_scale, const View& y, Queue& queue);
void channel_gradient_sums(const View& dy, const View& x, const View& mean, const View& sum,
                           const View& product_sum, Queue& queue);
void max_pool(const View& x, const WindowOptions& options, const View& y, const View& index,
              Queue& queue);

}  // namespace lockstep::cuda
