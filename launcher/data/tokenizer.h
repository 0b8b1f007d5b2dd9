#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::data {

// Text to tokens and back: decode(encode(text)) is the text. Immutable: any thread may use it.
class Tokenizer {
 public:
  using Sink = std::function<void(std::span<const int32_t>)>;

  virtual ~Tokenizer() = default;

  // As the flag --tokenizer spells it.
  virtual std::string name() const = 0;
  // Tokens are 0 to vocabulary_size() - 1.
  virtual int64_t vocabulary_size() const = 0;
  // Whether token i of every text is its byte i, so that a file can be read in place.
  virtual bool tokens_are_bytes() const { return false; }

  // Hands the tokens of the text to the sink, piece by piece and in order, so that a long text
  // needs no second copy. UsageError for a text that cannot be encoded.
  virtual void encode_to(std::string_view text, const Sink& sink) const = 0;
  std::vector<int32_t> encode(std::string_view text) const;

  // The text of the tokens; not always valid UTF-8, since a token may be part of a character.
  // Error for a token outside the vocabulary.
  virtual std::string decode(std::span<const int32_t> tokens) const = 0;
};

// "bytes": a token is a byte. "gpt2:DIR": GPT-2's byte-pair encoding with the files encoder.json
// and vocab.bpe of that directory. UsageError for anything else and for files that are not that.
std::unique_ptr<const Tokenizer> make_tokenizer(std::string_view specification);

}  // namespace lockstep::data
