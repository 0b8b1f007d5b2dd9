#include "lockstep/launcher/data/token_source.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "lockstep/launcher/data/open_input.h"
#include "lockstep/runtime/error.h"

namespace lockstep::data {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are mapped as they are");

constexpr int32_t kMagic = 20240520;
constexpr int32_t kVersion = 1;
constexpr size_t kHeaderBytes = 256 * sizeof(int32_t);
constexpr int64_t kLargestVocabulary = int64_t{std::numeric_limits<uint16_t>::max()} + 1;

using Tokens = std::variant<std::span<const uint8_t>, std::span<const uint16_t>>;

int64_t size_of(const Tokens& tokens) {
  return std::visit([](const auto& span) { return static_cast<int64_t>(span.size()); }, tokens);
}

Tokens tokens_of_text(const files::MappedFile& file) {
  return std::span(reinterpret_cast<const uint8_t*>(file.bytes().data()), file.size());
}

Tokens tokens_of_binary(const files::MappedFile& file) {
  const std::string path = file.path().string();
  if (file.size() < kHeaderBytes) {
    fail_usage({path, ": expected a token file's header of ", kHeaderBytes, " bytes, found ",
                file.size(), " bytes"});
  }
  int32_t header[3];
  std::memcpy(header, file.bytes().data(), sizeof header);
  const auto [magic, version, count] = header;
  if (magic != kMagic || version != kVersion) {
    fail_usage({path, ": expected a token file, beginning with the int32 ", kMagic, " and ",
                kVersion, ", found ", magic, " and ", version});
  }
  if (count < 0) fail_usage({path, ": the header gives ", count, " tokens"});
  const size_t expected = kHeaderBytes + static_cast<size_t>(count) * sizeof(uint16_t);
  if (file.size() != expected) {
    fail_usage({path, ": the header gives ", count, " tokens, ", expected,
                " bytes in all, but the file has ", file.size(), " bytes: ",
                file.size() < expected ? "it is truncated" : "something follows the tokens"});
  }
  // Aligned: the mapping begins at a page.
  const auto* tokens = reinterpret_cast<const uint16_t*>(file.bytes().data() + kHeaderBytes);
  return std::span(tokens, static_cast<size_t>(count));
}

std::vector<uint16_t> encode_text(const files::MappedFile& file, const Tokenizer& tokenizer) {
  const std::string path = file.path().string();
  if (tokenizer.vocabulary_size() > kLargestVocabulary) {
    fail_usage({path, ": tokens are kept in 16 bits, but ", tokenizer.name(), " has ",
                tokenizer.vocabulary_size(), " tokens"});
  }
  std::vector<uint16_t> tokens;
  tokens.reserve(file.size() / 3);
  try {
    tokenizer.encode_to(file.text(), [&](std::span<const int32_t> piece) {
      for (const int32_t token : piece) tokens.push_back(static_cast<uint16_t>(token));
    });
  } catch (const UsageError& error) {
    fail_usage({path, ": ", error.what()});
  }
  tokens.shrink_to_fit();
  return tokens;
}

}  // namespace

struct TokenSource::Contents {
  std::filesystem::path path;
  std::optional<files::MappedFile> file;  // what `tokens` views, or else
  std::vector<uint16_t> encoded;
  Tokens tokens;
};

TokenSource::TokenSource(std::shared_ptr<const Contents> contents, int64_t first, int64_t count)
    : contents_(std::move(contents)), first_(first), count_(count) {}

TokenSource TokenSource::open(const std::filesystem::path& path, const Tokenizer& tokenizer) {
  files::MappedFile file = open_input(path);
  auto contents = std::make_shared<Contents>();
  contents->path = path;
  if (path.extension() == ".bin") {
    contents->tokens = tokens_of_binary(file);
    contents->file = std::move(file);
  } else if (tokenizer.tokens_are_bytes()) {
    contents->tokens = tokens_of_text(file);
    contents->file = std::move(file);
  } else {
    contents->encoded = encode_text(file, tokenizer);
    contents->tokens = std::span<const uint16_t>(contents->encoded);
  }
  const int64_t count = size_of(contents->tokens);
  if (count == 0) fail_usage({path.string(), ": expected tokens, found none"});
  return TokenSource(std::move(contents), 0, count);
}

void TokenSource::read(int64_t first, std::span<int64_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  LOCKSTEP_CHECK(first >= 0 && first <= count_ && count <= count_ - first, "tokens [", first, ", ",
                 first + count, ") are not within the ", count_, " of ", description());
  std::visit(
      [&](const auto& tokens) {
        std::copy_n(tokens.begin() + (first_ + first), count, out.begin());
      },
      contents_->tokens);
}

void TokenSource::read_wrapped(int64_t first, std::span<int64_t> out) const {
  LOCKSTEP_CHECK(first >= 0 && count_ > 0, "no token ", first, " among the ", count_, " of ",
                 description());
  for (int64_t at = first % count_; !out.empty(); at = 0) {
    const size_t count = std::min(out.size(), static_cast<size_t>(count_ - at));
    read(at, out.first(count));
    out = out.subspan(count);
  }
}

TokenSource TokenSource::part(int64_t first, int64_t count) const {
  LOCKSTEP_CHECK(first >= 0 && count >= 0 && first <= count_ && count <= count_ - first, "part [",
                 first, ", ", first + count, ") is not within the ", count_, " tokens of ",
                 description());
  return TokenSource(contents_, first_ + first, count);
}

TokenSource::Split TokenSource::split(double held_out_fraction) const {
  if (!(held_out_fraction >= 0 && held_out_fraction < 1)) {
    fail_usage(
        {"expected a held-out fraction of at least 0 and below 1, found ", held_out_fraction});
  }
  const auto held_out =
      static_cast<int64_t>(std::floor(held_out_fraction * static_cast<double>(count_)));
  return {part(0, count_ - held_out), part(count_ - held_out, held_out)};
}

TokenSource::Token TokenSource::largest() const {
  LOCKSTEP_CHECK(count_ > 0, "no largest token among none in ", description());
  return std::visit(
      [&](const auto& tokens) {
        const auto part = tokens.subspan(first_, count_);
        auto value = part[0];
        for (const auto token : part) value = std::max(value, token);  // vectorised, the search not
        const auto found = std::find(part.begin(), part.end(), value);
        return Token{value, first_ + (found - part.begin())};
      },
      contents_->tokens);
}

void TokenSource::check_context(int64_t context) const {
  if (count_ > context) return;
  fail_usage(
      {description(), ": needs at least context + 1 = ", context + 1, " tokens, found ", count_});
}

void TokenSource::check_vocabulary(int64_t vocabulary) const {
  const bool bytes = std::holds_alternative<std::span<const uint8_t>>(contents_->tokens);
  if (count_ == 0 || vocabulary >= (bytes ? 256 : kLargestVocabulary)) return;
  const Token token = largest();
  if (token.value < vocabulary) return;
  fail_usage({contents_->path.string(), ": token ", token.value, " at position ", token.position,
              " does not fit a vocabulary of ", vocabulary, "; needs at least ", token.value + 1});
}

std::string TokenSource::description() const {
  std::string path = contents_->path.string();
  if (count_ == size_of(contents_->tokens)) return path;
  if (count_ == 0) return path + " (none of its tokens)";
  return concat({path, " (its tokens ", first_, " to ", first_ + count_ - 1, ")"});
}

}  // namespace lockstep::data
