#include "lockstep/launcher/data/token_source.h"

#include <gtest/gtest.h>

#include <cctype>
#include <cmath>
#include <cstring>
#include <fstream>
#include <numeric>

#include "lockstep/runtime/error.h"
#include "support/temporary_directory.h"

namespace lockstep::data {
namespace {

using lockstep::testing::TemporaryDirectory;

// A token for each word of one letter, or two for a capital: enough to see that a text was encoded.
class LetterTokenizer : public Tokenizer {
 public:
  explicit LetterTokenizer(int64_t vocabulary = 1000) : vocabulary_(vocabulary) {}
  std::string name() const override { return "letters"; }
  int64_t vocabulary_size() const override { return vocabulary_; }
  void encode_to(std::string_view text, const Sink& sink) const override {
    for (const char c : text) {
      if (c == '?') fail_usage({"cannot encode '?'"});
      const int32_t tokens[] = {500, std::tolower(c) - 'a'};
      sink(std::isupper(c) ? std::span(tokens) : std::span(tokens).subspan(1));
    }
  }
  std::string decode(std::span<const int32_t>) const override { return ""; }

 private:
  int64_t vocabulary_;
};

class TokenSourceTest : public ::testing::Test {
 protected:
  std::filesystem::path put(const std::string& name, const std::string& bytes) {
    std::ofstream(directory_ / name, std::ios::binary) << bytes;
    return directory_ / name;
  }

  std::filesystem::path put_tokens(const std::vector<uint16_t>& tokens) {
    return put("tokens.bin", binary(20240520, 1, static_cast<int32_t>(tokens.size()), tokens));
  }

  static std::string binary(int32_t magic, int32_t version, int32_t count,
                            const std::vector<uint16_t>& tokens) {
    std::vector<int32_t> header(256);
    header[0] = magic;
    header[1] = version;
    header[2] = count;
    std::string bytes(1024 + 2 * tokens.size(), '\0');
    std::memcpy(bytes.data(), header.data(), 1024);
    if (!tokens.empty()) std::memcpy(bytes.data() + 1024, tokens.data(), 2 * tokens.size());
    return bytes;
  }

  // The message, without the path at its front.
  template <class F>
  std::string problem_of(const std::filesystem::path& path, const F& action) {
    try {
      action();
    } catch (const UsageError& error) {
      const std::string message = error.what();
      EXPECT_EQ(message.find('\n'), std::string::npos);
      const size_t at = message.find(path.string());
      EXPECT_NE(at, std::string::npos) << message;
      return at == std::string::npos ? message
                                     : std::string(message).replace(at, path.string().size(), "F");
    }
    return "no error";
  }

  std::string open_problem(const std::filesystem::path& path, const Tokenizer& tokenizer) {
    return problem_of(path, [&] { TokenSource::open(path, tokenizer); });
  }
  std::string open_problem(const std::filesystem::path& path) {
    return open_problem(path, *bytes_);
  }

  static std::vector<int64_t> read(const TokenSource& source, int64_t first, int64_t count) {
    std::vector<int64_t> tokens(count);
    source.read(first, tokens);
    return tokens;
  }

  TemporaryDirectory directory_;
  std::unique_ptr<const Tokenizer> bytes_ = make_tokenizer("bytes");
};

using Values = std::vector<int64_t>;

TEST_F(TokenSourceTest, ReadsTokenFiles) {
  std::vector<uint16_t> tokens(1000);
  std::iota(tokens.begin(), tokens.end(), uint16_t{64800});
  const auto source = TokenSource::open(put_tokens(tokens), *bytes_);
  EXPECT_EQ(source.size(), 1000);
  EXPECT_EQ(read(source, 0, 3), (Values{64800, 64801, 64802}));
  EXPECT_EQ(read(source, 735, 2), (Values{65535, 0}));
  EXPECT_EQ(read(source, 1000, 0), Values{});
  EXPECT_THROW(read(source, 999, 2), Error);
  EXPECT_THROW(read(source, -1, 1), Error);
}

TEST_F(TokenSourceTest, ReadsTextAsBytes) {
  const auto source = TokenSource::open(put("text.txt", "a\n\xff\x80"), *bytes_);
  EXPECT_EQ(read(source, 0, source.size()), (Values{97, 10, 255, 128}));
}

TEST_F(TokenSourceTest, EncodesText) {
  const auto source = TokenSource::open(put("text.txt", "aBc"), LetterTokenizer());
  EXPECT_EQ(read(source, 0, source.size()), (Values{0, 500, 1, 2}));
  EXPECT_EQ(source.largest().value, 500);
}

TEST_F(TokenSourceTest, WrapsWhenAsked) {
  const auto source = TokenSource::open(put_tokens({1, 2, 3}), *bytes_);
  Values out(8);
  source.read_wrapped(5, out);
  EXPECT_EQ(out, (Values{3, 1, 2, 3, 1, 2, 3, 1}));
  source.part(1, 2).read_wrapped(0, out);
  EXPECT_EQ(out, (Values{2, 3, 2, 3, 2, 3, 2, 3}));
}

TEST_F(TokenSourceTest, SplitsOffATail) {
  const auto source = TokenSource::open(put("text.txt", "0123456789"), *bytes_);
  const auto [training, held_out] = source.split(0.25);
  EXPECT_EQ(training.size(), 8);
  EXPECT_EQ(read(held_out, 0, held_out.size()), (Values{'8', '9'}));
  EXPECT_EQ(held_out.description(), source.description() + " (its tokens 8 to 9)");
  EXPECT_EQ(source.split(0).held_out.size(), 0);
  EXPECT_THROW(source.split(1), UsageError);
  EXPECT_THROW(source.split(-0.1), UsageError);
  EXPECT_THROW(source.split(std::nan("")), UsageError);
  EXPECT_THROW(source.part(5, 6), Error);
  EXPECT_THROW(read(training, 7, 2), Error);
}

TEST_F(TokenSourceTest, PartsOutliveTheWhole) {
  const auto part = TokenSource::open(put_tokens({1, 2, 3}), *bytes_).part(1, 1);
  EXPECT_EQ(read(part, 0, 1), Values{2});
}

TEST_F(TokenSourceTest, NamesAVocabularyTooSmall) {
  const auto path = put_tokens({1, 300, 2, 300, 7});
  const auto source = TokenSource::open(path, *bytes_);
  source.check_vocabulary(301);
  EXPECT_EQ(problem_of(path, [&] { source.check_vocabulary(256); }),
            "F: token 300 at position 1 does not fit a vocabulary of 256; needs at least 301");
  EXPECT_EQ(problem_of(path, [&] { source.part(2, 3).check_vocabulary(256); }),
            "F: token 300 at position 3 does not fit a vocabulary of 256; needs at least 301");
  source.part(4, 1).check_vocabulary(8);

  const auto text = put("text.txt", "ab");
  TokenSource::open(text, *bytes_).check_vocabulary(256);
  EXPECT_EQ(problem_of(text, [&] { TokenSource::open(text, *bytes_).check_vocabulary(98); }),
            "F: token 98 at position 1 does not fit a vocabulary of 98; needs at least 99");
}

TEST_F(TokenSourceTest, NamesTooFewTokens) {
  const auto path = put("text.txt", "a");
  const auto source = TokenSource::open(path, *bytes_);
  EXPECT_EQ(problem_of(path, [&] { source.check_context(128); }),
            "F: needs at least context + 1 = 129 tokens, found 1");
  EXPECT_EQ(problem_of(path, [&] { source.part(1, 0).check_context(1); }),
            "F (none of its tokens): needs at least context + 1 = 2 tokens, found 0");
  TokenSource::open(put("two.txt", "ab"), *bytes_).check_context(1);
}

TEST_F(TokenSourceTest, RefusesWhatIsNoFile) {
  EXPECT_NE(open_problem(directory_ / "missing.txt").find("No such file"), std::string::npos);
  EXPECT_EQ(open_problem(directory_.path()), "F is a directory, expected a file");
  std::filesystem::create_directory(directory_ / "folder.bin");
  EXPECT_EQ(open_problem(directory_ / "folder.bin"), "F is a directory, expected a file");
  EXPECT_EQ(open_problem(put("empty.txt", "")), "F: expected tokens, found none");
  EXPECT_EQ(open_problem(put("empty.txt", ""), LetterTokenizer()),
            "F: expected tokens, found none");
}

TEST_F(TokenSourceTest, RefusesDamagedTokenFiles) {
  EXPECT_EQ(open_problem(put("a.bin", "")),
            "F: expected a token file's header of 1024 bytes, found 0 bytes");
  EXPECT_EQ(open_problem(put("b.bin", binary(1, 1, 0, {}).substr(1))),
            "F: expected a token file's header of 1024 bytes, found 1023 bytes");
  EXPECT_EQ(open_problem(put("c.bin", binary(20240521, 1, 1, {7}))),
            "F: expected a token file, beginning with the int32 20240520 and 1, found 20240521 "
            "and 1");
  EXPECT_EQ(open_problem(put("d.bin", binary(20240520, 2, 1, {7}))),
            "F: expected a token file, beginning with the int32 20240520 and 1, found 20240520 "
            "and 2");
  EXPECT_EQ(open_problem(put("e.bin", binary(20240520, 1, -1, {7}))),
            "F: the header gives -1 tokens");
  EXPECT_EQ(open_problem(put("f.bin", binary(20240520, 1, 3, {7, 8}))),
            "F: the header gives 3 tokens, 1030 bytes in all, but the file has 1028 bytes: it is "
            "truncated");
  EXPECT_EQ(open_problem(put("g.bin", binary(20240520, 1, 1, {7, 8}))),
            "F: the header gives 1 tokens, 1026 bytes in all, but the file has 1028 bytes: "
            "something follows the tokens");
  EXPECT_EQ(open_problem(put("h.bin", binary(20240520, 1, 0, {}))),
            "F: expected tokens, found none");
}

TEST_F(TokenSourceTest, NamesTheFileThatCannotBeEncoded) {
  EXPECT_EQ(open_problem(put("a.txt", "a?"), LetterTokenizer()), "F: cannot encode '?'");
  EXPECT_EQ(open_problem(put("a.txt", "a"), LetterTokenizer(70000)),
            "F: tokens are kept in 16 bits, but letters has 70000 tokens");
}

}  // namespace
}  // namespace lockstep::data
