#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace lockstep::files {

// XXH3, 128 bits: finds damage, not malice. `xxhsum -H2 FILE` prints the same digits.
struct Checksum {
  uint64_t high = 0;
  uint64_t low = 0;
  bool operator==(const Checksum&) const = default;
  // 32 lower-case hexadecimal digits.
  std::string to_hex() const;
  static std::optional<Checksum> from_hex(std::string_view text);
};

// The checksum of a sequence of pieces; how it is cut into pieces does not matter.
class Hasher {
 public:
  Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;
  ~Hasher();

  void update(std::span<const std::byte> bytes);
  void update(std::string_view text) { update(std::as_bytes(std::span(text))); }
  Checksum digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

Checksum checksum_of(std::span<const std::byte> bytes);
inline Checksum checksum_of(std::string_view text) {
  return checksum_of(std::as_bytes(std::span(text)));
}

}  // namespace lockstep::files
