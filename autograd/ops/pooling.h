#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "lockstep/autograd/tensor.h"

// Lists have an entry for each spatial dimension, or one for all. Images are [batch, channels,
// spatial…], or [channels, spatial…] for a single one, and floating. Padding is at most half the
// kernel. With `ceil_mode` a last window may hang over the end, if it begins before it.
namespace lockstep {

struct PoolOptions {
  std::vector<int64_t> kernel_size;
  std::vector<int64_t> stride = {};  // empty: kernel_size
  std::vector<int64_t> padding = {0};
  std::vector<int64_t> dilation = {1};
  bool ceil_mode = false;
};

// NaN is the largest; the first of equal ones takes the gradient. Padding is never chosen.
Tensor max_pool1d(const Tensor& x, const PoolOptions& options);
Tensor max_pool2d(const Tensor& x, const PoolOptions& options);

struct AvgPoolOptions {
  std::vector<int64_t> kernel_size;
  std::vector<int64_t> stride = {};  // empty: kernel_size
  std::vector<int64_t> padding = {0};
  bool ceil_mode = false;
  bool count_include_pad = true;  // what ceil_mode adds beyond the padding never counts
  std::optional<int64_t> divisor_override = {};
};

Tensor avg_pool1d(const Tensor& x, const AvgPoolOptions& options);
Tensor avg_pool2d(const Tensor& x, const AvgPoolOptions& options);

// Output i of n is the mean of elements floor(i size / n) up to ceil((i + 1) size / n). -1 keeps a
// size.
Tensor adaptive_avg_pool1d(const Tensor& x, int64_t size);
Tensor adaptive_avg_pool2d(const Tensor& x, const std::vector<int64_t>& size);

enum class InterpolateMode { nearest, bilinear };

struct InterpolateOptions {
  std::vector<int64_t> size = {};  // this, or scale_factor
  std::vector<double> scale_factor = {};
  InterpolateMode mode = InterpolateMode::nearest;
  bool align_corners = false;  // bilinear: the corners' centres stay where they are
};

// nearest: of any number of spatial dimensions up to 3, at floor(i / scale). bilinear: of 2, at
// (i + 0.5) / scale - 0.5. scale is scale_factor, or the ratio of the sizes.
Tensor interpolate(const Tensor& x, const InterpolateOptions& options);

struct WindowLists {
  std::vector<int64_t> kernel_size;
  std::vector<int64_t> stride = {1};
  std::vector<int64_t> padding = {0};
  std::vector<int64_t> dilation = {1};
};

// torch.nn.functional.unfold: [batch, channels, height, width] -> [batch, channels * kernel,
// windows], the windows and the places of a kernel in row-major order; padding is 0.
Tensor unfold(const Tensor& x, const WindowLists& windows);

}  // namespace lockstep
