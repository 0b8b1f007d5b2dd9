#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model.h"

namespace gpt {

struct SampleOptions {
  int64_t tokens = 200;
  double temperature = 0.8;  // 0: always the likeliest token
  int64_t vocabulary = 0;    // only tokens below this; 0: all
  uint64_t seed = 0;
};

// Continues `prompt` (at least one token), each token drawn from the model's distribution at the
// given temperature. Returns the new tokens.
std::vector<int32_t> generate(Model& model, std::span<const int32_t> prompt,
                              const SampleOptions& options);

}  // namespace gpt
