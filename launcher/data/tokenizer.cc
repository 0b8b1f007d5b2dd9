#include "lockstep/launcher/data/tokenizer.h"

#include <algorithm>
#include <array>

#include "lockstep/launcher/data/gpt2_tokenizer.h"
#include "lockstep/runtime/error.h"

namespace lockstep::data {
namespace {

class ByteTokenizer : public Tokenizer {
 public:
  std::string name() const override { return "bytes"; }
  int64_t vocabulary_size() const override { return 256; }
  bool tokens_are_bytes() const override { return true; }

  void encode_to(std::string_view text, const Sink& sink) const override {
    std::array<int32_t, 4096> tokens;
    while (!text.empty()) {
      const size_t count = std::min(text.size(), tokens.size());
      std::transform(text.begin(), text.begin() + count, tokens.begin(),
                     [](char c) { return static_cast<uint8_t>(c); });
      sink(std::span(tokens).first(count));
      text.remove_prefix(count);
    }
  }

  std::string decode(std::span<const int32_t> tokens) const override {
    std::string text;
    text.reserve(tokens.size());
    for (const int32_t token : tokens) {
      LOCKSTEP_CHECK(token >= 0 && token < 256, "decode: token ", token,
                     " is not in the vocabulary of bytes, 0 to 255");
      text.push_back(static_cast<char>(token));
    }
    return text;
  }
};

}  // namespace

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<int32_t> tokens;
  encode_to(text, [&](std::span<const int32_t> piece) {
    tokens.insert(tokens.end(), piece.begin(), piece.end());
  });
  return tokens;
}

std::unique_ptr<const Tokenizer> make_tokenizer(std::string_view specification) {
  constexpr std::string_view kGpt2 = "gpt2:";
  if (specification == "bytes") return std::make_unique<ByteTokenizer>();
  if (specification.starts_with(kGpt2) && specification.size() > kGpt2.size()) {
    return std::make_unique<Gpt2Tokenizer>(specification.substr(kGpt2.size()));
  }
  fail_usage({"tokenizer '", specification, "': expected bytes or gpt2:DIR"});
}

}  // namespace lockstep::data
