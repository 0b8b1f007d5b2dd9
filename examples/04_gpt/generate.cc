#include "generate.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace gpt {
namespace {

using namespace lockstep;

int32_t draw(const std::vector<double>& logits, double temperature, std::mt19937_64& random) {
  const auto largest = std::max_element(logits.begin(), logits.end());
  if (temperature <= 0) return static_cast<int32_t>(largest - logits.begin());
  std::vector<double> weights;
  for (double logit : logits) weights.push_back(std::exp((logit - *largest) / temperature));
  return std::discrete_distribution<int32_t>(weights.begin(), weights.end())(random);
}

}  // namespace

std::vector<int32_t> generate(Model& model, std::span<const int32_t> prompt,
                              const SampleOptions& options) {
  const NoGrad no_grad;
  const bool was_training = model.training();
  model.train(false);
  std::mt19937_64 random(options.seed);
  std::vector<int64_t> tokens(prompt.begin(), prompt.end());
  std::vector<int32_t> result;
  while (static_cast<int64_t>(result.size()) < options.tokens) {
    const int64_t time =
        std::min<int64_t>(static_cast<int64_t>(tokens.size()), model.config.context);
    const std::span<const int64_t> window(tokens.end() - time, tokens.end());
    const Tensor logits = model(Tensor(Array::from(window, {1, time}, context().device)));
    std::vector<double> last = logits.value().select(1, time - 1).to_vector<double>();
    if (options.vocabulary > 0) last.resize(static_cast<size_t>(options.vocabulary));
    result.push_back(draw(last, options.temperature, random));
    tokens.push_back(result.back());
  }
  model.train(was_training);
  return result;
}

}  // namespace gpt
