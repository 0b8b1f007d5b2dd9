#include "lockstep/collectives/store/store_wire.h"

namespace lockstep {
namespace {

template <class T>
void append(std::string& bytes, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) {
    bytes.push_back(static_cast<char>((value >> (8 * i)) & 0xff));
  }
}

template <class T>
T parse(std::string_view bytes) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) {
    value |= static_cast<T>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  }
  return value;
}

}  // namespace

WireWriter& WireWriter::u8(uint8_t value) {
  append(bytes_, value);
  return *this;
}

WireWriter& WireWriter::u32(uint32_t value) {
  append(bytes_, value);
  return *this;
}

WireWriter& WireWriter::i64(int64_t value) {
  append(bytes_, static_cast<uint64_t>(value));
  return *this;
}

WireWriter& WireWriter::text(std::string_view value) {
  u32(static_cast<uint32_t>(value.size()));
  bytes_.append(value);
  return *this;
}

std::string WireWriter::finish() {
  std::string length;
  append(length, static_cast<uint32_t>(bytes_.size() - kWireHeaderBytes));
  bytes_.replace(0, kWireHeaderBytes, length);
  return std::move(bytes_);
}

bool WireReader::take(size_t count, std::string_view* bytes) {
  if (left_.size() < count) {
    left_ = {};
    return false;
  }
  *bytes = left_.substr(0, count);
  left_.remove_prefix(count);
  return true;
}

bool WireReader::u8(uint8_t* value) {
  std::string_view bytes;
  if (!take(1, &bytes)) return false;
  *value = parse<uint8_t>(bytes);
  return true;
}

bool WireReader::u32(uint32_t* value) {
  std::string_view bytes;
  if (!take(4, &bytes)) return false;
  *value = parse<uint32_t>(bytes);
  return true;
}

bool WireReader::i64(int64_t* value) {
  std::string_view bytes;
  if (!take(8, &bytes)) return false;
  *value = static_cast<int64_t>(parse<uint64_t>(bytes));
  return true;
}

bool WireReader::text(std::string_view* value) {
  uint32_t length = 0;
  return u32(&length) && take(length, value);
}

uint32_t wire_length(std::string_view header) { return parse<uint32_t>(header); }

}  // namespace lockstep
