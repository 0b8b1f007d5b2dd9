#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace lockstep {

// The store's protocol over TCP. A message is a u32 length and that many bytes; integers are
// little-endian, texts a u32 length and their bytes. A client sends one request and reads one
// answer: a status code (u8, absl::StatusCode), then a text where it is not 0, else what the
// request asks for. The first request is `hello`.
enum class StoreRequest : uint8_t {
  hello = 1,  // u32 magic, text token
  set,        // text key, text value
  set_once,   // text key, text value -> text
  get,        // text key, i64 milliseconds -> text
  add,        // text key, i64 delta -> i64
  remove,     // text key -> u8
  list,       // text prefix -> u32 count, (text, text)…
  set_will,   // text key, text value
  leave,
};

inline constexpr uint32_t kStoreMagic = 0x314b534c;  // "LSK1"
inline constexpr size_t kWireHeaderBytes = 4;

class WireWriter {
 public:
  WireWriter() : bytes_(kWireHeaderBytes, '\0') {}
  WireWriter& u8(uint8_t value);
  WireWriter& u32(uint32_t value);
  WireWriter& i64(int64_t value);
  WireWriter& text(std::string_view value);
  // The whole message, its length in front.
  std::string finish();

 private:
  std::string bytes_;
};

// Reads what a message holds after its length. Every call is false, and what it sets of no use,
// once something was missing.
class WireReader {
 public:
  explicit WireReader(std::string_view bytes) : left_(bytes) {}
  bool u8(uint8_t* value);
  bool u32(uint32_t* value);
  bool i64(int64_t* value);
  bool text(std::string_view* value);
  bool at_end() const { return left_.empty(); }

 private:
  bool take(size_t count, std::string_view* bytes);
  std::string_view left_;
};

uint32_t wire_length(std::string_view header);

}  // namespace lockstep
