#include "lockstep/launcher/data/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "lockstep/launcher/data/byte_alphabet.h"
#include "lockstep/launcher/data/word_pattern.h"
#include "lockstep/runtime/error.h"
#include "support/temporary_directory.h"

namespace lockstep::data {
namespace {

using lockstep::testing::TemporaryDirectory;
using Words = std::vector<std::string>;
using Pair = std::pair<std::string, std::string>;

Words words_of(std::string_view text) {
  static const WordPattern pattern;
  Words words;
  pattern.split(text, [&](std::string_view word) { words.emplace_back(word); });
  return words;
}

template <class F>
std::string problem_of(const F& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos);
    return error.what();
  }
  return "no error";
}

TEST(WordPattern, CutsAsGpt2Does) {
  EXPECT_EQ(words_of(""), Words{});
  EXPECT_EQ(words_of("Hello world"), (Words{"Hello", " world"}));
  EXPECT_EQ(words_of("I'll say they've 'S it's"),
            (Words{"I", "'ll", " say", " they", "'ve", " '", "S", " it", "'s"}));
  EXPECT_EQ(words_of("in 1984, no.2!?"), (Words{"in", " 1984", ",", " no", ".", "2", "!?"}));
  EXPECT_EQ(words_of("a  b   \n\n c \t"), (Words{"a", " ", " b", "   \n\n", " c", " \t"}));
  EXPECT_EQ(words_of("a\n\nb"), (Words{"a", "\n", "\n", "b"}));
  EXPECT_EQ(words_of("snake_case <|endoftext|>"),
            (Words{"snake", "_", "case", " <|", "endoftext", "|>"}));
}

TEST(WordPattern, KnowsLettersNumbersAndSpacesOfUnicode) {
  EXPECT_EQ(words_of("été日本語"), Words{"été日本語"});
  EXPECT_EQ(words_of("x²Ⅷ½ ١٢"), (Words{"x", "²Ⅷ½", " ١٢"}));
  EXPECT_EQ(words_of("e\u0301"), (Words{"e", "\u0301"}));  // a combining mark is no letter
  EXPECT_EQ(words_of("a\u00A0\u3000b"), (Words{"a", "\u00A0", "\u3000", "b"}));
  EXPECT_EQ(words_of("a\u180Eb\u200B"), (Words{"a", "\u180E", "b", "\u200B"}));  // no spaces
  EXPECT_EQ(words_of("hi 😀!"), (Words{"hi", " 😀!"}));
}

TEST(WordPattern, TakesVeryLongWords) {
  for (const std::string piece : {"a", " ", "é", "1", "!"}) {
    std::string text;
    while (text.size() < 1'000'000) text += piece;
    EXPECT_EQ(words_of(text), Words{text});
  }
}

TEST(WordPattern, NamesTheByteThatIsNotUtf8) {
  EXPECT_THROW(words_of("good \xff"), UsageError);
  EXPECT_TRUE(
      problem_of([] { words_of("good \xff"); }).starts_with("the text is not UTF-8 at byte 5: "));
  EXPECT_TRUE(
      problem_of([] { words_of("cut \xc3"); }).starts_with("the text is not UTF-8 at byte 4: "));
  EXPECT_THROW(words_of("\xed\xa0\x80"), UsageError);  // a surrogate
}

TEST(ByteAlphabet, WritesEveryByte) {
  EXPECT_EQ(written_byte('A'), "A");
  EXPECT_EQ(written_byte(' '), "Ġ");
  EXPECT_EQ(written_byte('\n'), "Ċ");
  EXPECT_EQ(written_byte(0xE9), "é");
  std::string all;
  std::string written;
  for (int byte = 0; byte < 256; ++byte) {
    all.push_back(static_cast<char>(byte));
    written += written_byte(static_cast<unsigned char>(byte));
  }
  EXPECT_EQ(bytes_of_written(written), all);
  EXPECT_EQ(bytes_of_written("<|文 ↵|>"), "<|文 ↵|>");
}

TEST(ByteTokenizer, TokensAreBytes) {
  const auto bytes = make_tokenizer("bytes");
  EXPECT_EQ(bytes->vocabulary_size(), 256);
  EXPECT_TRUE(bytes->tokens_are_bytes());
  EXPECT_EQ(bytes->encode("a\xff"), (std::vector<int32_t>{97, 255}));
  const std::string text(10000, '\xfe');
  EXPECT_EQ(bytes->decode(bytes->encode(text)), text);
  EXPECT_EQ(problem_of([&] { bytes->decode(std::vector<int32_t>{256}); }),
            "decode: token 256 is not in the vocabulary of bytes, 0 to 255");
}

TEST(MakeTokenizer, NamesWhatItDoesNotKnow) {
  EXPECT_EQ(problem_of([] { make_tokenizer("words"); }),
            "tokenizer 'words': expected bytes or gpt2:DIR");
  EXPECT_THROW(make_tokenizer("gpt2:"), UsageError);
  EXPECT_NE(problem_of([] { make_tokenizer("gpt2:/no/such"); }).find("/no/such/encoder.json"),
            std::string::npos);
}

constexpr std::string_view kText =
    "In the beginning God created the heaven and the earth. And the earth was without form, and "
    "void; and darkness was upon the face of the deep. And the Spirit of God moved upon the face "
    "of the waters. And God said, Let there be light: and there was light. Été, naïve, 日本, aaaa "
    "aaaaaaa 10001000 it's  they'll!!";

constexpr int kMerges = 90;

Words characters_of(std::string_view word) {
  Words symbols;
  for (const char c : word) symbols.push_back(written_byte(static_cast<unsigned char>(c)));
  return symbols;
}

void join(Words& symbols, const Pair& pair) {
  Words joined;
  for (size_t i = 0; i < symbols.size(); ++i) {
    const bool match =
        i + 1 < symbols.size() && symbols[i] == pair.first && symbols[i + 1] == pair.second;
    joined.push_back(match ? symbols[i] + symbols[i + 1] : symbols[i]);
    if (match) ++i;
  }
  symbols = std::move(joined);
}

// A vocabulary learned from kText, written as GPT-2's files are; and its encoding in the plainest
// form: merge after merge, over the whole word.
class Gpt2TokenizerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (int byte = 0; byte < 256; ++byte) {
      add_token(written_byte(static_cast<unsigned char>(byte)));
    }
    learn(kMerges);
    add_token("<|endoftext|>");
    write();
  }

  void add_token(const std::string& token) {
    const auto number = static_cast<int32_t>(numbers_.size());
    numbers_.emplace(token, number);
  }

  void learn(int merges) {
    std::vector<Words> words;
    for (const std::string& word : words_of(kText)) words.push_back(characters_of(word));
    for (int i = 0; i < merges; ++i) {
      std::map<Pair, int> counts;
      for (const Words& word : words) {
        for (size_t j = 0; j + 1 < word.size(); ++j) ++counts[{word[j], word[j + 1]}];
      }
      const auto best = std::max_element(counts.begin(), counts.end(),
                                         [](auto& a, auto& b) { return a.second < b.second; });
      merges_.push_back(best->first);
      add_token(best->first.first + best->first.second);
      for (Words& word : words) join(word, merges_.back());
    }
  }

  void write() {
    std::ofstream(directory_ / "encoder.json") << nlohmann::json(numbers_).dump();
    std::ofstream file(directory_ / "vocab.bpe");
    file << "#version: 0.2\n";
    for (const auto& [left, right] : merges_) file << left << ' ' << right << '\n';
  }

  std::unique_ptr<const Tokenizer> load() const {
    return make_tokenizer("gpt2:" + directory_.path().string());
  }

  // The reason, without the path at its front.
  std::string load_problem(const std::string& file, const std::string& contents) {
    const std::string before = [&] {
      std::ifstream in(directory_ / file);
      return std::string(std::istreambuf_iterator<char>(in), {});
    }();
    std::ofstream(directory_ / file) << contents;
    const std::string message = problem_of([&] { load(); });
    std::ofstream(directory_ / file) << before;
    const std::string path = (directory_ / file).string();
    EXPECT_TRUE(message.starts_with(path)) << message;
    return message.substr(std::min(message.size(), path.size()));
  }

  std::vector<int32_t> plain_encode(std::string_view text) const {
    std::vector<int32_t> tokens;
    for (const std::string& word : words_of(text)) {
      Words symbols = characters_of(word);
      for (const Pair& pair : merges_) join(symbols, pair);
      for (const std::string& symbol : symbols) tokens.push_back(numbers_.at(symbol));
    }
    return tokens;
  }

  TemporaryDirectory directory_;
  std::map<std::string, int32_t> numbers_;
  std::vector<Pair> merges_;
};

TEST_F(Gpt2TokenizerTest, EncodesAsThePlainAlgorithm) {
  const auto gpt2 = load();
  EXPECT_EQ(gpt2->vocabulary_size(), 256 + kMerges + 1);
  EXPECT_FALSE(gpt2->tokens_are_bytes());
  EXPECT_EQ(gpt2->encode(kText), plain_encode(kText));
  EXPECT_LT(gpt2->encode(kText).size(), kText.size() / 2);
  EXPECT_EQ(gpt2->encode(" the"), std::vector<int32_t>{numbers_.at("Ġthe")});

  std::mt19937 random(1);
  const Words pieces = {"the", "a", "aa",  "e", " ",  "0",  "1",
                        "an",  "d", "God", "é", "日", "\n", "h"};
  for (int i = 0; i < 200; ++i) {
    std::string text;
    for (int j = 0; j < 60; ++j) text += pieces[random() % pieces.size()];
    EXPECT_EQ(gpt2->encode(text), plain_encode(text)) << text;
    EXPECT_EQ(gpt2->decode(gpt2->encode(text)), text);
  }
}

TEST_F(Gpt2TokenizerTest, ComesBackExactly) {
  const auto gpt2 = load();
  std::string text;
  for (char32_t c = 1; c < 0x800; ++c) {
    if (c < 0x80) {
      text.push_back(static_cast<char>(c));
    } else {
      text.push_back(static_cast<char>(0xC0 | c >> 6));
      text.push_back(static_cast<char>(0x80 | (c & 0x3F)));
    }
  }
  text.push_back('\0');
  EXPECT_EQ(gpt2->decode(gpt2->encode(text)), text);
  EXPECT_TRUE(gpt2->encode("").empty());
}

TEST_F(Gpt2TokenizerTest, SpecialTokensAreNotMadeFromText) {
  const auto gpt2 = load();
  const int32_t end = numbers_.at("<|endoftext|>");
  const auto tokens = gpt2->encode("<|endoftext|>");
  EXPECT_EQ(std::count(tokens.begin(), tokens.end(), end), 0);
  EXPECT_EQ(gpt2->decode(std::vector<int32_t>{end}), "<|endoftext|>");
}

TEST_F(Gpt2TokenizerTest, TakesLongWordsInReasonableTime) {
  const std::string word(200'000, 'a');
  const auto gpt2 = load();
  EXPECT_EQ(gpt2->decode(gpt2->encode(word)), word);
}

TEST_F(Gpt2TokenizerTest, ReadsFilesWithCarriageReturnsAndNoHeader) {
  const auto expected = load()->encode(kText);
  std::ofstream file(directory_ / "vocab.bpe");
  for (const auto& [left, right] : merges_) file << left << ' ' << right << "\r\n";
  file.close();
  EXPECT_EQ(load()->encode(kText), expected);
}

TEST_F(Gpt2TokenizerTest, NamesBadInput) {
  const auto gpt2 = load();
  EXPECT_TRUE(problem_of([&] { gpt2->encode("\xff"); }).starts_with("the text is not UTF-8"));
  EXPECT_EQ(problem_of([&] { gpt2->decode(std::vector<int32_t>{347}); }),
            "decode: token 347 is not in the vocabulary of " + gpt2->name() + ", 0 to 346");
}

TEST_F(Gpt2TokenizerTest, NamesDamagedFiles) {
  constexpr const char* kNoObject = ": expected a JSON object of tokens and their numbers";
  EXPECT_EQ(load_problem("encoder.json", ""), kNoObject);
  EXPECT_EQ(load_problem("encoder.json", "[1]"), kNoObject);
  EXPECT_EQ(load_problem("encoder.json", "{}"), kNoObject);
  EXPECT_EQ(load_problem("encoder.json", R"({"a": 0)"), kNoObject);
  EXPECT_EQ(load_problem("encoder.json", R"({"a": 0, "b": 0})"),
            ": token 'b' has 0, expected each number from 0 to 1 once");
  EXPECT_EQ(load_problem("encoder.json", R"({"a": 0, "b": 2})"),
            ": token 'b' has 2, expected each number from 0 to 1 once");
  EXPECT_EQ(load_problem("encoder.json", R"({"a": "x"})"),
            ": token 'a' has \"x\", expected each number from 0 to 0 once");
  EXPECT_EQ(load_problem("vocab.bpe", "#version: 0.2\nt h\nthe\n"),
            ", line 3: expected two tokens with a space between, found 'the'");
  EXPECT_EQ(load_problem("vocab.bpe", "a b c\n"),
            ", line 1: expected two tokens with a space between, found 'a b c'");
  EXPECT_EQ(load_problem("vocab.bpe", "z q\n"), ", line 1: encoder.json has no token 'zq'");
}

TEST_F(Gpt2TokenizerTest, NamesAByteWithoutToken) {
  std::ofstream(directory_ / "encoder.json") << R"({"a": 0, "b": 1, "ab": 2})";
  std::ofstream(directory_ / "vocab.bpe") << "a b\n";
  const auto gpt2 = load();
  EXPECT_EQ(gpt2->encode("aab"), (std::vector<int32_t>{0, 2}));
  EXPECT_EQ(problem_of([&] { gpt2->encode("abc"); }), "the vocabulary has no token for byte 99");
}

}  // namespace
}  // namespace lockstep::data
