#include "lockstep/launcher/data/token_windows.h"

#include <algorithm>
#include <utility>

#include "lockstep/runtime/error.h"

namespace lockstep::data {
namespace {

int64_t whole_windows(const TokenSource& source, int64_t context) {
  if (context < 1) fail_usage({"expected a context of at least 1, found ", context});
  source.check_context(context);
  return (source.size() - 1) / context;
}

}  // namespace

TokenWindows::TokenWindows(TokenSource source, const Options& options)
    : source_(std::move(source)),
      options_(options),
      sampler_(whole_windows(source_, options.context), options.seed) {}

void TokenWindows::read(int64_t first_position, std::span<int64_t> inputs,
                        std::span<int64_t> targets) const {
  const auto context = static_cast<size_t>(options_.context);
  LOCKSTEP_CHECK(inputs.size() == targets.size() && inputs.size() % context == 0,
                 "token windows: expected inputs and targets of [samples, ", context, "], found ",
                 inputs.size(), " and ", targets.size(), " elements");
  for (size_t sample = 0; sample * context < inputs.size(); ++sample) {
    read_sample(first_position + static_cast<int64_t>(sample),
                inputs.subspan(sample * context, context),
                targets.subspan(sample * context, context));
  }
}

void TokenWindows::read_sample(int64_t position, std::span<int64_t> inputs,
                               std::span<int64_t> targets) const {
  const bool sequential = options_.order == Order::sequential;
  const int64_t first = (sequential ? position : sampler_.at(position)) * options_.context;
  // Only the sequential order ever reaches the end of the data.
  source_.read_wrapped(first, inputs);
  std::copy(inputs.begin() + 1, inputs.end(), targets.begin());
  source_.read_wrapped(first + options_.context, targets.last(1));
}

}  // namespace lockstep::data
