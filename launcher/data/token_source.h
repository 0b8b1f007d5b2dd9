#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "lockstep/launcher/data/tokenizer.h"

namespace lockstep::data {

// The tokens of a file, or a part of them: an immutable handle, cheap to copy, readable from any
// thread. The file must not shrink while it is open.
class TokenSource {
 public:
  // A file named *.bin holds tokens: a header of 256 little-endian int32, {20240520, 1, count, 0,
  // …}, then count uint16, which are read in place; the tokenizer is not asked. Any other file is
  // text: read in place where tokens are bytes, or else encoded now and kept as uint16. UsageError
  // when the file is missing, empty, not a file, or damaged.
  static TokenSource open(const std::filesystem::path& path, const Tokenizer& tokenizer);

  int64_t size() const { return count_; }
  // Copies tokens [first, first + out.size()), which must lie within.
  void read(int64_t first, std::span<int64_t> out) const;
  // Token i of `out` is token (first + i) modulo the size.
  void read_wrapped(int64_t first, std::span<int64_t> out) const;

  // Tokens [first, first + count) as a source of their own.
  TokenSource part(int64_t first, int64_t count) const;
  struct Split;
  // Cuts off the last `held_out_fraction` of the tokens, in [0, 1), rounded down.
  Split split(double held_out_fraction) const;

  struct Token {
    int64_t value;
    int64_t position;  // in the file
  };
  // The first of the largest tokens. Scans them all.
  Token largest() const;

  // UsageError when there are fewer than context + 1 tokens, which one sample needs.
  void check_context(int64_t context) const;
  // UsageError when a token is not below `vocabulary`. Scans the tokens where that is possible.
  void check_vocabulary(int64_t vocabulary) const;

  // For messages: the path, and which of its tokens unless all.
  std::string description() const;

 private:
  struct Contents;
  TokenSource(std::shared_ptr<const Contents> contents, int64_t first, int64_t count);

  std::shared_ptr<const Contents> contents_;  // shared by the parts of one file
  int64_t first_;
  int64_t count_;
};

struct TokenSource::Split {
  TokenSource training;
  TokenSource held_out;
};

}  // namespace lockstep::data
