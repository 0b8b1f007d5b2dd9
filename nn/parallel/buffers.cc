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
  flats_.clear();
  std::vector<Device> devices;
  std::vector<int64_t> sizes;
  for (const Buffer& buffer : buffers_) {
    const Array& own = buffer.array();
    const auto at = std::find(devices.begin(), devices.end(), own.device()) - devices.begin();
    const auto flat = static_cast<size_t>(at);
    if (flat == devices.size()) {
      devices.push_back(own.device());
      sizes.push_back(0);
      flats_.emplace_back();
    }
    flats_[flat].places.emplace_back(buffer, sizes[flat]);
    sizes[flat] += (static_cast<int64_t>(own.bytes()) + kAlignment - 1) / kAlignment * kAlignment;
  }
  for (size_t i = 0; i < flats_.size(); ++i) {
    const Array bytes = Array::zeros({sizes[i]}, DType::u8, devices[i]);
    flats_[i].bytes = bytes;
    for (auto& [buffer, offset] : flats_[i].places) {
      const Array& own = buffer.array();
      // Of a storage of its own: a buffer that changes is no change of the others.
      const Ref<Storage> window =
          Storage::adopt(devices[i], place_of(bytes, offset), own.bytes(), [bytes] {});
      buffer.seat(Array(window, own.dtype(), own.shape(), contiguous_strides(own.shape()), 0));
    }
  }
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
    for (const auto& [buffer, offset] : flat.places) buffer.array().storage()->bump_version();
    works.push_back(communicator.broadcast(flat.bytes, 0, {.what = "buffers"}));
  }
  return works;
}

}  // namespace lockstep::nn
