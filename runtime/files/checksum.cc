#include "lockstep/runtime/files/checksum.h"

#include <xxhash.h>

#include <new>

namespace lockstep::files {
namespace {

Checksum from(XXH128_hash_t hash) { return {hash.high64, hash.low64}; }

std::optional<uint64_t> word_from_hex(std::string_view digits) {
  uint64_t word = 0;
  for (const char digit : digits) {
    if (digit >= '0' && digit <= '9') {
      word = word << 4 | static_cast<uint64_t>(digit - '0');
    } else if (digit >= 'a' && digit <= 'f') {
      word = word << 4 | static_cast<uint64_t>(digit - 'a' + 10);
    } else {
      return std::nullopt;
    }
  }
  return word;
}

}  // namespace

std::string Checksum::to_hex() const {
  std::string text;
  for (const uint64_t word : {high, low}) {
    for (int shift = 60; shift >= 0; shift -= 4) {
      text.push_back("0123456789abcdef"[word >> shift & 15]);
    }
  }
  return text;
}

std::optional<Checksum> Checksum::from_hex(std::string_view text) {
  if (text.size() != 32) return std::nullopt;
  const auto high = word_from_hex(text.substr(0, 16));
  const auto low = word_from_hex(text.substr(16));
  if (!high || !low) return std::nullopt;
  return Checksum{*high, *low};
}

struct Hasher::State {
  State() : state(XXH3_createState()) {
    if (state == nullptr) throw std::bad_alloc();
    XXH3_128bits_reset(state);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { XXH3_freeState(state); }

  XXH3_state_t* state;
};

Hasher::Hasher() : state_(std::make_unique<State>()) {}
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;
Hasher::~Hasher() = default;

void Hasher::update(std::span<const std::byte> bytes) {
  XXH3_128bits_update(state_->state, bytes.data(), bytes.size());
}

Checksum Hasher::digest() const { return from(XXH3_128bits_digest(state_->state)); }

Checksum checksum_of(std::span<const std::byte> bytes) {
  return from(XXH3_128bits(bytes.data(), bytes.size()));
}

}  // namespace lockstep::files
