#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "lockstep/launcher/data/byte_pairs.h"
#include "lockstep/launcher/data/tokenizer.h"
#include "lockstep/launcher/data/word_pattern.h"

namespace lockstep::data {

// GPT-2's byte-level byte-pair encoding. Special tokens such as <|endoftext|> are never made from
// text: it is encoded as the plain characters it is.
class Gpt2Tokenizer : public Tokenizer {
 public:
  // Reads encoder.json (an object: token to number, 0 to n - 1) and vocab.bpe (a line for each
  // merge) in the directory. UsageError for missing files and for what they must not hold.
  explicit Gpt2Tokenizer(const std::filesystem::path& directory);

  std::string name() const override { return name_; }
  int64_t vocabulary_size() const override { return static_cast<int64_t>(tokens_.size()); }
  // UsageError when the text is not UTF-8.
  void encode_to(std::string_view text, const Sink& sink) const override;
  std::string decode(std::span<const int32_t> tokens) const override;

 private:
  std::string name_;
  std::vector<std::string> tokens_;  // the bytes of each token
  WordPattern words_;
  std::optional<BytePairs> pairs_;
};

}  // namespace lockstep::data
