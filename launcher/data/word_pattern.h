#pragma once

#include <functional>
#include <memory>
#include <string_view>

namespace lockstep::data {

// Cuts a text into the pieces that GPT-2's byte-pair encoding treats one by one, by the pattern of
// its published encoder:
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// where \s is Unicode's White_Space. Immutable: any thread may use it.
class WordPattern {
 public:
  WordPattern();
  ~WordPattern();

  // Calls `word` with each piece, in order; together they are the text. UsageError when the text
  // is not UTF-8, naming the byte; nothing was called then.
  void split(std::string_view text, const std::function<void(std::string_view)>& word) const;

 private:
  struct Compiled;
  std::unique_ptr<const Compiled> compiled_;
};

}  // namespace lockstep::data
