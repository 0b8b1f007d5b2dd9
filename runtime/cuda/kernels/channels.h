#pragma once

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/kernels.h"

// Kernels of images: statistics of channels, and pooling. Arguments as in Kernels. Views of
// [batch, channels, inner] may have any strides; what lies channels-last or channels-first is read
// in 16-byte packs.
namespace lockstep::cuda {

void channel_moments(const View& x, const View& mean, const View& variance, Queue& queue);
void channel_norm(const View& mean, const View& variance, const ChannelNorm& norm, Queue& queue);
void channel_norm_backward(const View& mean, const View& inverse, const View& scale,
                           const View& sum, const View& product_sum, double share,
                           const View& slope, const View& shift, const View& dweight, Queue& queue);
void channel_affine(const View& x, const View& scale, const View& shift, const View& residual,
                    bool relu, const View& y, Queue& queue);
void channel_gradient_sums(const View& dy, const View& x, const View& mean, const ChannelGate& gate,
                           const View& gated, const View& sum, const View& product_sum,
                           Queue& queue);
void channel_input_gradient(const View& dy, const View& x, const View& scale,
                            const ChannelGate& gate, const View& slope, const View& shift,
                            const View& dx, Queue& queue);
void max_pool(const View& x, const WindowOptions& options, const View& y, const View& index,
              Queue& queue);
void max_pool_backward(const View& dy, const View& index, const WindowOptions& options,
                       const View& dx, Queue& queue);

}  // namespace lockstep::cuda
