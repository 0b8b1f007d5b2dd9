#pragma once

#include <cstdint>
#include <vector>

#include "lockstep/autograd/tensor.h"

// Lists have an entry for each spatial dimension, or one for all. Images are [batch, channels,
// spatial…], or [channels, spatial…] for a single one, and floating. The result of an input that
// lies channels-last does too; on the CPU that is the fast form.
namespace lockstep {

struct ConvOptions {
  std::vector<int64_t> stride = {1};
  std::vector<int64_t> padding = {0};
  std::vector<int64_t> dilation = {1};
  int64_t groups = 1;
  // Pad so that the output is as large as the input, the odd one at the end; stride 1 only.
  bool same = false;
};

// Cross-correlation. weight [out, in / groups, kernel…], bias [out] or empty.
Tensor conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
              const ConvOptions& options = {});
Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
              const ConvOptions& options = {});
Tensor conv3d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
              const ConvOptions& options = {});

struct ConvTransposeOptions {
  std::vector<int64_t> stride = {1};
  std::vector<int64_t> padding = {0};
  // Makes the output larger at the end; smaller than stride or dilation.
  std::vector<int64_t> output_padding = {0};
  std::vector<int64_t> dilation = {1};
  int64_t groups = 1;
};

// The gradient of a convolution with respect to its input, as an op. weight [in, out / groups,
// kernel…]; the output has (size - 1) stride - 2 padding + dilation (kernel - 1) + output_padding
// + 1.
Tensor conv_transpose1d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
                        const ConvTransposeOptions& options = {});
Tensor conv_transpose2d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
                        const ConvTransposeOptions& options = {});
Tensor conv_transpose3d(const Tensor& x, const Tensor& weight, const Tensor& bias = {},
                        const ConvTransposeOptions& options = {});

// The same values with the channels innermost in memory; x itself where it lies so. Rank 3 to 5,
// [batch, channels, spatial…].
Tensor channels_last(const Tensor& x);

}  // namespace lockstep
