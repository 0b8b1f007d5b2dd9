#include "lockstep/launcher/data/word_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstdint>
#include <string>

#include "lockstep/runtime/error.h"

namespace lockstep::data {
namespace {

// PCRE's own \s differs from White_Space by U+180E.
constexpr std::string_view kPattern =
    "'s|'t|'re|'ve|'m|'ll|'d"
    "| ?\\p{L}+| ?\\p{N}+| ?[^\\p{White_Space}\\p{L}\\p{N}]+"
    "|\\p{White_Space}+(?!\\P{White_Space})|\\p{White_Space}+";

std::string error_text(int code) {
  char buffer[256] = "";
  pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(buffer), sizeof buffer);
  return buffer;
}

struct FreeMatch {
  void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
};

}  // namespace

struct WordPattern::Compiled {
  explicit Compiled(pcre2_code* pattern) : code(pattern) {}
  Compiled(const Compiled&) = delete;
  Compiled& operator=(const Compiled&) = delete;
  ~Compiled() { pcre2_code_free(code); }

  pcre2_code* const code;
};

WordPattern::WordPattern() {
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kPattern.data()), kPattern.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &offset, nullptr);
  LOCKSTEP_CHECK(code != nullptr, "PCRE2 refuses the word pattern at ", offset, ": ",
                 error_text(error));
  compiled_ = std::make_unique<Compiled>(code);
  // Where the system forbids it, matching is only slower.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
}

WordPattern::~WordPattern() = default;

void WordPattern::split(std::string_view text,
                        const std::function<void(std::string_view)>& word) const {
  const std::unique_ptr<pcre2_match_data, FreeMatch> match(
      pcre2_match_data_create_from_pattern(compiled_->code, nullptr));
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  uint32_t options = 0;  // the first match checks that the whole text is UTF-8
  for (size_t begin = 0; begin < text.size();) {
    const int result =
        pcre2_match(compiled_->code, subject, text.size(), begin, options, match.get(), nullptr);
    if (result <= PCRE2_ERROR_UTF8_ERR1 && result >= PCRE2_ERROR_UTF8_ERR21) {
      fail_usage({"the text is not UTF-8 at byte ", pcre2_get_startchar(match.get()), ": ",
                  error_text(result)});
    }
    LOCKSTEP_CHECK(result > 0, "splitting text into words failed at byte ", begin, ": ",
                   error_text(result));
    const size_t end = pcre2_get_ovector_pointer(match.get())[1];
    word(text.substr(begin, end - begin));
    begin = end;
    options = PCRE2_NO_UTF_CHECK;
  }
}

}  // namespace lockstep::data
