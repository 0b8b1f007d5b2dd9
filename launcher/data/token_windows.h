#pragma once

#include <cstdint>
#include <span>

#include "lockstep/launcher/data/sampler.h"
#include "lockstep/launcher/data/token_source.h"

namespace lockstep::data {

// sequential: the sample at position p of the run begins at token p · context, wrapping at the end
// of the data. shuffled: samples begin at multiples of the context and come in an order of their
// own in every epoch; the tokens after the last whole one are not seen.
enum class Order { shuffled, sequential };

// A language model's samples: windows of `context` tokens, with the token after each as its target.
// Immutable: any thread may read.
class TokenWindows {
 public:
  struct Options {
    int64_t context = 1;
    Order order = Order::shuffled;
    uint64_t seed = 0;  // of the shuffled order
  };

  // UsageError when the source has fewer than context + 1 tokens.
  TokenWindows(TokenSource source, const Options& options);

  const TokenSource& source() const { return source_; }
  // Whole windows in the data, which an epoch takes once: the last has a target for every token.
  int64_t count() const { return sampler_.count(); }

  // The samples at consecutive positions of the run, from `first_position`.
  // inputs, targets: [samples, context], row by row.
  void read(int64_t first_position, std::span<int64_t> inputs, std::span<int64_t> targets) const;

 private:
  void read_sample(int64_t position, std::span<int64_t> inputs, std::span<int64_t> targets) const;

  TokenSource source_;
  Options options_;
  Sampler sampler_;
};

}  // namespace lockstep::data
