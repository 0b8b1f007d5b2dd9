#include "lockstep/runtime/cuda/host_copies.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace lockstep::cuda {
namespace {

constexpr size_t kPieceBytes = size_t{4} << 20;
// Smaller ones take less time than what they would save.
constexpr size_t kLargeBytes = size_t{1} << 20;

}  // namespace

HostCopies::~HostCopies() {
  for (Piece& piece : pieces_) {
    if (piece.used != nullptr) driver_.destroy(piece.used);
    if (piece.data != nullptr) driver_.free_pinned(piece.data);
  }
}

void HostCopies::to_device(void* to, const void* from, size_t bytes, Stream stream) {
  if (bytes == 0) return;
  if (bytes < kLargeBytes) return driver_.copy(to, from, bytes, stream);
  const std::lock_guard lock(mutex_);
  if (!has_pieces()) return driver_.copy(to, from, bytes, stream);
  for (size_t at = 0; at < bytes; at += kPieceBytes) {
    const size_t size = std::min(kPieceBytes, bytes - at);
    Piece& piece = take_piece();
    std::memcpy(piece.data, static_cast<const char*>(from) + at, size);
    copy(static_cast<char*>(to) + at, piece.data, size, piece, stream);
  }
}

void HostCopies::to_host(void* to, const void* from, size_t bytes, Stream stream) {
  if (bytes == 0) return;
  const auto all_at_once = [&] {
    driver_.copy(to, from, bytes, stream);
    driver_.synchronize(stream);
  };
  if (bytes < kLargeBytes) return all_at_once();
  const std::lock_guard lock(mutex_);
  if (!has_pieces()) return all_at_once();
  const auto size_at = [&](size_t at) { return std::min(kPieceBytes, bytes - at); };
  const auto ask_for = [&](size_t at) {
    Piece& piece = take_piece();
    copy(piece.data, static_cast<const char*>(from) + at, size_at(at), piece, stream);
    return &piece;
  };
  Piece* arriving = ask_for(0);
  for (size_t at = 0; at < bytes; at += kPieceBytes) {
    Piece* const next = at + kPieceBytes < bytes ? ask_for(at + kPieceBytes) : nullptr;
    wait_for(*arriving);
    std::memcpy(static_cast<char*>(to) + at, arriving->data, size_at(at));
    arriving = next;
  }
}

void HostCopies::copy(void* to, const void* from, size_t bytes, Piece& piece, Stream stream) {
  driver_.copy(to, from, bytes, stream);
  piece.used = driver_.record(stream);
}

// Pinned memory is taken when it is first needed. Where there is none copies are made without.
bool HostCopies::has_pieces() {
  for (Piece& piece : pieces_) {
    if (piece.data == nullptr && !refused_) {
      piece.data = static_cast<char*>(driver_.allocate_pinned(kPieceBytes));
      refused_ = piece.data == nullptr;
    }
  }
  return !refused_;
}

HostCopies::Piece& HostCopies::take_piece() {
  Piece& piece = pieces_[next_];
  next_ = 1 - next_;
  wait_for(piece);
  return piece;
}

void HostCopies::wait_for(Piece& piece) {
  if (piece.used == nullptr) return;
  const Event used = std::exchange(piece.used, nullptr);
  driver_.wait(used);
  driver_.destroy(used);
}

}  // namespace lockstep::cuda
