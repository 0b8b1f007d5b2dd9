#include "task.h"

#include <nlohmann/json.hpp>

#include "hugging_face.h"

namespace gpt {

using namespace lockstep;
using data::TokenSource;
using data::TokenWindows;

namespace {

// Each flag that was given, in its place in the configuration.
template <class F>
void for_each_given(const Options& options, Config& config, const F& act) {
  const auto visit = [&](const char* flag, const std::optional<int64_t>& given, int64_t& value) {
    if (given) act(flag, *given, value);
  };
  visit("--layers", options.layers, config.layers);
  visit("--heads", options.heads, config.heads);
  visit("--width", options.width, config.width);
  visit("--context", options.context, config.context);
  visit("--vocabulary", options.vocabulary, config.vocabulary);
}

Config choose_config(const Options& options, const data::Tokenizer& tokenizer) {
  Config config{.vocabulary = tokenizer.vocabulary_size()};
  if (options.init_from.empty()) {
    for_each_given(options, config,
                   [](const char*, int64_t given, int64_t& value) { value = given; });
  } else {
    config = read_config(options.init_from, options.heads.value_or(config.heads));
    for_each_given(options, config, [&](const char* flag, int64_t given, int64_t& value) {
      if (given == value) return;
      fail_usage(
          {flag, " ", given, " contradicts ", options.init_from.string(), ", which has ", value});
    });
  }
  if (config.width % config.heads != 0) {
    fail_usage({"--width ", config.width, " is not a multiple of --heads ", config.heads});
  }
  return config;
}

}  // namespace

Task::Task(const Options& options, uint64_t seed, bool trains)
    : options_(options), tokenizer_(data::make_tokenizer(options.tokenizer)) {
  config_ = choose_config(options_, *tokenizer_);
  if (trains) open_data(seed);
  model_.emplace(config_);
}

void Task::open_data(uint64_t seed) {
  if (options_.data.empty()) fail_usage({"--data is missing: the text or tokens to train on"});
  const TokenSource source = TokenSource::open(options_.data, *tokenizer_);
  source.check_context(config_.context);
  source.check_vocabulary(config_.vocabulary);
  const auto [training, held_out] = source.split(options_.validation_fraction);
  training_.emplace(training, TokenWindows::Options{.context = config_.context,
                                                    .order = options_.order == "sequential"
                                                                 ? data::Order::sequential
                                                                 : data::Order::shuffled,
                                                    .seed = seed});
  if (options_.validation_fraction > 0) {
    held_out_.emplace(held_out, TokenWindows::Options{.context = config_.context,
                                                      .order = data::Order::sequential});
  }
}

bool Task::initialize() {
  if (options_.init_from.empty()) return false;
  load_weights(options_.init_from, *model_);
  return true;
}

void Task::load_from(const TokenWindows& windows, int64_t first, int64_t count) {
  const Shape shape{count, config_.context};
  std::vector<int64_t> inputs(static_cast<size_t>(shape.elements())), targets(inputs.size());
  windows.read(first, inputs, targets);
  const Purpose purpose("batch");
  inputs_ = Array::from(inputs, shape, context().device);
  targets_ = Array::from(targets, shape, context().device);
}

Tensor Task::loss() {
  return cross_entropy(flatten((*model_)(inputs_), 0, 1), flatten(targets_));  // a row a token
}

Task::Identity Task::identity() const {
  using Json = nlohmann::ordered_json;
  const Json model{{"layers", config_.layers},
                   {"heads", config_.heads},
                   {"width", config_.width},
                   {"context", config_.context},
                   {"vocabulary", config_.vocabulary}};
  const Json data{{"tokenizer", options_.tokenizer},
                  {"order", options_.order},
                  {"validation_fraction", options_.validation_fraction},
                  {"data_tokens", training_ ? training_->source().size() : 0}};
  const Json other{{"data", options_.data.string()}, {"init_from", options_.init_from.string()}};
  return {.model = model.dump(1), .data = data.dump(1), .other = other.dump(1)};
}

}  // namespace gpt
