#include <algorithm>
#include <cstring>

#include "lockstep/collectives/communicator.h"

namespace lockstep {
namespace {

Array bytes_of(std::string_view text, int64_t capacity) {
  const Array bytes = Array::empty({capacity}, DType::u8);
  if (capacity > 0) std::memset(bytes.data(), 0, bytes.bytes());
  if (!text.empty()) std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

Array length_of(std::string_view text) {
  const Array length = Array::empty({1}, DType::i64);
  *length.data<int64_t>() = static_cast<int64_t>(text.size());
  return length;
}

}  // namespace

std::vector<std::string> all_gather_text(Communicator& communicator, std::string_view mine,
                                         std::string_view what) {
  const int size = communicator.size();
  const Array lengths = Array::empty({size}, DType::i64);
  communicator.all_gather(length_of(mine), lengths, {.what = what}).wait();
  const int64_t* length = lengths.data<int64_t>();
  const int64_t longest = *std::max_element(length, length + size);

  const Array all = Array::empty({size, longest}, DType::u8);
  communicator.all_gather(bytes_of(mine, longest), all, {.what = what}).wait();
  std::vector<std::string> texts;
  for (int rank = 0; rank < size; ++rank) {
    const char* text = static_cast<const char*>(all.data()) + rank * longest;
    texts.emplace_back(text, static_cast<size_t>(length[rank]));
  }
  return texts;
}

std::string broadcast_text(Communicator& communicator, std::string_view mine, int root,
                           std::string_view what) {
  const Array length = length_of(mine);
  communicator.broadcast(length, root, {.what = what}).wait();
  const int64_t bytes = *length.data<int64_t>();
  const Array text = bytes_of(communicator.rank() == root ? mine : std::string_view{}, bytes);
  communicator.broadcast(text, root, {.what = what}).wait();
  return std::string(static_cast<const char*>(text.data()), static_cast<size_t>(bytes));
}

}  // namespace lockstep
