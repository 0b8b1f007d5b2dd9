#include "task.h"

#include <nlohmann/json.hpp>

#include "hugging_face.h"

namespace gpt {

using namespace lockstep;
using data::TokenSource;
using data::TokenWindows;

Task::Task(const Options& options, uint64_t seed, bool trains)
    : options_(options), tokenizer_(data::make_tokenizer(options.tokenizer)) {
  Config& config = options_.config;
  if (!options_.init_from.empty()) {
    config = read_config(options_.init_from, config.heads);
  } else if (config.vocabulary == 0) {
    config.vocabulary = tokenizer_->vocabulary_size();
  }
  if (config.width % config.heads != 0) {
    fail_usage({"--width ", config.width, " is not a multiple of --heads ", config.heads});
  }
  if (trains) open_data(seed);
  model_.emplace(config);
}

void Task::open_data(uint64_t seed) {
  if (options_.data.empty()) fail_usage({"--data is missing: the text or tokens to train on"});
  const TokenSource source = TokenSource::open(options_.data, *tokenizer_);
  source.check_context(options_.config.context);
  source.check_vocabulary(options_.config.vocabulary);
  const auto [training, held_out] = source.split(options_.validation_fraction);
  training_.emplace(training, TokenWindows::Options{.context = options_.config.context,
                                                    .order = options_.order == "sequential"
                                                                 ? data::Order::sequential
                                                                 : data::Order::shuffled,
                                                    .seed = seed});
  if (options_.validation_fraction > 0) {
    held_out_.emplace(held_out, TokenWindows::Options{.context = options_.config.context,
                                                      .order = data::Order::sequential});
  }
}

void Task::initialize() {
  if (!options_.init_from.empty()) load_weights(options_.init_from, *model_);
}

void Task::load_from(const TokenWindows& windows, int64_t first, int64_t count) {
  const Shape shape{count, options_.config.context};
  std::vector<int64_t> inputs(static_cast<size_t>(shape.elements())), targets(inputs.size());
  windows.read(first, inputs, targets);
  inputs_ = Array::from(inputs, shape);
  targets_ = Array::from(targets, shape);
}

Tensor Task::loss() { return cross_entropy((*model_)(inputs_), targets_); }

std::string Task::config_json() const {
  const Config& config = options_.config;
  return nlohmann::ordered_json{
      {"data", options_.data.string()},  {"tokenizer", options_.tokenizer},
      {"layers", config.layers},         {"heads", config.heads},
      {"width", config.width},           {"context", config.context},
      {"vocabulary", config.vocabulary}, {"init_from", options_.init_from.string()},
      {"order", options_.order},         {"validation_fraction", options_.validation_fraction}}
      .dump(1);
}

}  // namespace gpt
