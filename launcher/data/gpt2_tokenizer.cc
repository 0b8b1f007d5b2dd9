#include "lockstep/launcher/data/gpt2_tokenizer.h"

#include <array>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>

#include "lockstep/launcher/data/byte_alphabet.h"
#include "lockstep/launcher/data/open_input.h"
#include "lockstep/runtime/error.h"

namespace lockstep::data {
namespace {

using Numbers = std::unordered_map<std::string, int32_t>;  // tokens as the files write them

Numbers read_encoder(const std::filesystem::path& path) {
  const files::MappedFile file = open_input(path);
  const auto json = nlohmann::json::parse(file.text(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || json.empty()) {
    fail_usage({path.string(), ": expected a JSON object of tokens and their numbers"});
  }
  const auto count = static_cast<int64_t>(json.size());
  std::vector<bool> seen(json.size());
  Numbers numbers;
  numbers.reserve(json.size());
  for (const auto& [token, value] : json.items()) {
    const int64_t number = value.is_number_integer() ? value.get<int64_t>() : -1;
    if (number < 0 || number >= count || seen[number]) {
      fail_usage({path.string(), ": token '", token, "' has ", value.dump(),
                  ", expected each number from 0 to ", count - 1, " once"});
    }
    seen[number] = true;
    numbers.emplace(token, static_cast<int32_t>(number));
  }
  return numbers;
}

Merge parse_merge(std::string_view line, const Numbers& numbers, std::string_view where) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
    fail_usage({where, ": expected two tokens with a space between, found '", line, "'"});
  }
  const std::string left(line.substr(0, space));
  const std::string right(line.substr(space + 1));
  const auto number = [&](const std::string& token) {
    const auto found = numbers.find(token);
    if (found == numbers.end()) fail_usage({where, ": encoder.json has no token '", token, "'"});
    return found->second;
  };
  return {number(left), number(right), number(left + right)};
}

std::vector<Merge> read_merges(const std::filesystem::path& path, const Numbers& numbers) {
  const files::MappedFile file = open_input(path);
  std::string_view text = file.text();
  std::vector<Merge> merges;
  for (int line_number = 1; !text.empty(); ++line_number) {
    const size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || (line_number == 1 && line.starts_with("#version"))) continue;
    merges.push_back(parse_merge(line, numbers, concat({path.string(), ", line ", line_number})));
  }
  return merges;
}

std::array<int32_t, 256> tokens_of_bytes(const Numbers& numbers) {
  std::array<int32_t, 256> tokens;
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = numbers.find(written_byte(static_cast<unsigned char>(byte)));
    tokens[byte] = found == numbers.end() ? -1 : found->second;
  }
  return tokens;
}

// The tokens of words seen before, as ranges of one list. The frequent words of a text come early:
// when the cache is full, it stays as it is. Views the words: the text must outlive it.
class WordCache {
 public:
  explicit WordCache(const BytePairs& pairs) : merger_(pairs) {}

  // Good until the next call.
  std::span<const int32_t> encode(std::string_view word) {
    const auto found = ranges_.find(word);
    if (found != ranges_.end())
      return std::span(tokens_).subspan(found->second.first, found->second.second);
    if (ranges_.size() >= kLargestCount || word.size() > kLongestWord) {
      uncached_.clear();
      merger_.append(word, uncached_);
      return uncached_;
    }
    const size_t first = tokens_.size();
    merger_.append(word, tokens_);
    ranges_.emplace(word, std::pair(first, tokens_.size() - first));
    return std::span(tokens_).subspan(first);
  }

 private:
  static constexpr size_t kLargestCount = size_t{1} << 18;
  static constexpr size_t kLongestWord = 64;

  WordMerger merger_;
  std::vector<int32_t> tokens_;
  std::vector<int32_t> uncached_;
  std::unordered_map<std::string_view, std::pair<size_t, size_t>> ranges_;
};

}  // namespace

Gpt2Tokenizer::Gpt2Tokenizer(const std::filesystem::path& directory)
    : name_("gpt2:" + directory.string()) {
  const Numbers numbers = read_encoder(directory / "encoder.json");
  tokens_.resize(numbers.size());
  for (const auto& [written, number] : numbers) tokens_[number] = bytes_of_written(written);
  pairs_.emplace(tokens_of_bytes(numbers), read_merges(directory / "vocab.bpe", numbers));
}

void Gpt2Tokenizer::encode_to(std::string_view text, const Sink& sink) const {
  WordCache cache(*pairs_);
  words_.split(text, [&](std::string_view word) { sink(cache.encode(word)); });
}

std::string Gpt2Tokenizer::decode(std::span<const int32_t> tokens) const {
  std::string text;
  for (const int32_t token : tokens) {
    LOCKSTEP_CHECK(token >= 0 && token < vocabulary_size(), "decode: token ", token,
                   " is not in the vocabulary of ", name_, ", 0 to ", vocabulary_size() - 1);
    text += tokens_[token];
  }
  return text;
}

}  // namespace lockstep::data
