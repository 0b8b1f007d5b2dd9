#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/autograd/ops/shape.h"
#include "lockstep/autograd/tensor.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::internal {

// The lists that users give, one entry for each of `spatial` dimensions or one for all; an empty
// kernel is left at 1.
struct WindowArguments {
  const std::vector<int64_t>& kernel;
  const std::vector<int64_t>& stride;
  const std::vector<int64_t>& padding;
  const std::vector<int64_t>& dilation;
};
WindowOptions window_options(const char* name, int spatial, const WindowArguments& arguments);

// "kernel=[3,3] stride=[1,1] …" where a tracer will read it, else empty.
std::string describe(const WindowOptions& options);

// f on [batch, channels, spatial…]: a single image goes in as a batch of one.
template <class F>
Tensor with_batch(const Tensor& x, int spatial, const F& f) {
  return x && x.rank() == spatial + 1 ? squeeze(f(unsqueeze(x, 0)), 0) : f(x);
}

}  // namespace lockstep::internal
