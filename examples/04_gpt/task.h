#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "lockstep/launcher/data/token_windows.h"
#include "lockstep/launcher/data/tokenizer.h"
#include "lockstep/launcher/train/trainer.h"
#include "model.h"

namespace gpt {

// The program's own flags.
struct Options {
  std::filesystem::path data;
  std::string tokenizer = "bytes";
  // Not given: the default, or what the weights of --init-from have.
  std::optional<int64_t> layers, heads, width, context, vocabulary;
  std::filesystem::path init_from;
  std::string order = "shuffled";
  double validation_fraction = 0;
  std::filesystem::path export_to;
  std::optional<std::string> prompt;  // a new line
  int64_t sample = 0;
  double temperature = 0.8;
};

// The next token of a text: the loss is in nats per token.
class Task final : public lockstep::train::Task {
 public:
  // Opens the data (none is needed to sample only). Throws UsageError.
  Task(const Options& options, uint64_t seed, bool trains);

  Model& module() override { return *model_; }
  bool initialize() override;
  int64_t samples() const override { return training_ ? training_->count() : 0; }
  int64_t tokens_per_sample() const override { return config_.context; }
  bool endless() const override { return true; }
  bool is_static() const override { return true; }
  void load(int64_t first, int64_t count) override { load_from(*training_, first, count); }
  lockstep::Tensor loss() override;
  int64_t validation_samples() const override { return held_out_ ? held_out_->count() : 0; }
  void load_validation(int64_t first, int64_t count) override {
    load_from(*held_out_, first, count);
  }
  Identity identity() const override;

  const lockstep::data::Tokenizer& tokenizer() const { return *tokenizer_; }

 private:
  void open_data(uint64_t seed);
  void load_from(const lockstep::data::TokenWindows& windows, int64_t first, int64_t count);

  Options options_;
  Config config_;
  std::unique_ptr<const lockstep::data::Tokenizer> tokenizer_;
  std::optional<lockstep::data::TokenWindows> training_;
  std::optional<lockstep::data::TokenWindows> held_out_;
  std::optional<Model> model_;
  lockstep::Tensor inputs_, targets_;  // [samples, context] i64
};

}  // namespace gpt
