#pragma once

#include <vector>

#include "lockstep/runtime/kernels.h"
#include "lockstep/runtime/shape.h"

namespace lockstep::test {

struct ConvolutionCase {
  const char* name;
  Shape x, w, y;
  WindowOptions options;
};

// y's size follows from the options; `more`: padding behind where it is not the one before.
inline ConvolutionCase make_case(const char* name, Shape x, Shape w, WindowOptions options,
                                 std::vector<int64_t> more = {}) {
  options.spatial = x.rank() - 2;
  Shape y{x[0], w[0]};
  for (int i = 0; i < options.spatial; ++i) {
    options.kernel[i] = w[2 + i];
    const int64_t behind = more.empty() ? options.padding[i] : more[static_cast<size_t>(i)];
    const int64_t reach = options.dilation[i] * (options.kernel[i] - 1) + 1;
    y.append((x[2 + i] + options.padding[i] + behind - reach) / options.stride[i] + 1);
  }
  return {name, x, w, y, options};
}

}  // namespace lockstep::test
