#include "lockstep/launcher/data/byte_alphabet.h"

#include <array>
#include <optional>

namespace lockstep::data {
namespace {

constexpr int kCharacters = 0x144;  // one more than the last character in use

struct Alphabet {
  std::array<int, 256> character_of = {};
  std::array<int, kCharacters> byte_of = {};  // -1 where a character stands for no byte
};

constexpr Alphabet make_alphabet() {
  Alphabet alphabet;
  for (int& byte : alphabet.byte_of) byte = -1;
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const int character = printable ? byte : next++;
    alphabet.character_of[byte] = character;
    alphabet.byte_of[character] = byte;
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();
static_assert(kAlphabet.character_of[' '] == 0x120);
static_assert(kAlphabet.character_of[0xAD] == kCharacters - 1);

// The byte that a two-byte character at the front stands for. All others are ASCII.
std::optional<char> two_byte_character(std::string_view text) {
  if (text.size() < 2) return std::nullopt;
  const auto lead = static_cast<unsigned char>(text[0]);
  const auto trail = static_cast<unsigned char>(text[1]);
  if (lead < 0xC2 || lead > 0xDF || (trail & 0xC0) != 0x80) return std::nullopt;
  const int character = (lead & 0x1F) << 6 | (trail & 0x3F);
  if (character >= kCharacters || kAlphabet.byte_of[character] < 0) return std::nullopt;
  return static_cast<char>(kAlphabet.byte_of[character]);
}

}  // namespace

std::string written_byte(unsigned char byte) {
  const int character = kAlphabet.character_of[byte];
  if (character < 0x80) return {static_cast<char>(character)};
  return {static_cast<char>(0xC0 | character >> 6), static_cast<char>(0x80 | (character & 0x3F))};
}

std::string bytes_of_written(std::string_view written) {
  std::string bytes;
  while (!written.empty()) {
    const std::optional<char> byte = two_byte_character(written);
    bytes.push_back(byte.value_or(written[0]));  // printable ASCII stands for itself
    written.remove_prefix(byte ? 2 : 1);
  }
  return bytes;
}

}  // namespace lockstep::data
