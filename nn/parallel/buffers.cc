#include "lockstep/nn/parallel/buffers.h"

#include <algorithm>

namespace lockstep::nn {
namespace {

constexpr int64_t kAlignment = 64;

char* place_of(const Array& bytes, int64_t offset) {
  return static_cast<char*>(bytes.data()) + offset;
}

}  // namespace

SharedBuffers::SharedBuffers(const std::vector<NamedBuffer>& buffers) {
  for (const auto& [name, buffer] : buffers) {
    const auto is_same = [&own = buffer](const Buffer& known) {
      return known.identity() == own.identity();
    };
    if (std::none_of(buffers_.begin(), buffers_.end(), is_same)) buffers_.push_back(buffer);
  }
  gather();
}

void SharedBuffers::gather() {
  std::vector<Flat> flats;
  std::vector<int64_t> sizes;
  for (const Buffer& buffer : buffers_) {
    const Array& own = buffer.array();
    const auto at = std::find_if(flats.begin(), flats.end(),
                                 [&](const Flat& flat) { return flat.device == own.device(); });
    const auto i = static_cast<size_t>(at - flats.begin());
    if (at == flats.end()) {
      flats.push_back({.device = own.device()});
      sizes.push_back(0);
    }
    flats[i].places.emplace_back(buffer, sizes[i]);
    sizes[i] += (static_cast<int64_t>(own.bytes()) + kAlignment - 1) / kAlignment * kAlignment;
  }
  for (size_t i = 0; i < flats.size(); ++i) {
    flats[i].bytes = Array::zeros({sizes[i]}, DType::u8, flats[i].device);
  }
  for (auto& [device, bytes, places] : flats) {
    for (auto& [buffer, offset] : places) {
      const Array& own = buffer.array();
      // Of a storage of its own: a buffer that changes is no change of the others.
      const Ref<Storage> window =
          Storage::adopt(device, place_of(bytes, offset), own.bytes(), [kept = bytes] {});
      buffer.seat(Array(window, own.dtype(), own.shape(), contiguous_strides(own.shape()), 0));
    }
  }
  flats_ = std::move(flats);
}

// Not where somebody has given one of them another place.
bool SharedBuffers::gathered() const {
  return std::all_of(flats_.begin(), flats_.end(), [](const Flat& flat) {
    return std::all_of(flat.places.begin(), flat.places.end(), [&](const auto& place) {
      return place.first.array().data() == place_of(flat.bytes, place.second);
    });
  });
}

std::vector<Work> SharedBuffers::broadcast(Communicator& communicator) {
  if (!gathered()) gather();
  std::vector<Work> works;
  for (const Flat& flat : flats_) {
    for (const auto& [buffer, offset] : flat.places) {
      if (communicator.size() > 1) buffer.array().storage()->bump_version();
    }
    works.push_back(communicator.broadcast(flat.bytes, 0, {.what = "buffers"}));
  }
  return works;
}

}  // namespace lockstep::nn
