#include "lockstep/nn/parallel/buffers.h"

#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::nn {
namespace {

Array bytes_of(const Array& x) {
  const auto width = static_cast<int64_t>(size_of(x.dtype()));
  return Array(x.storage(), DType::u8, {x.elements() * width}, {1}, x.offset() * width);
}

// All of one device.
void broadcast_bytes(Communicator& communicator, const std::vector<Array>& values) {
  int64_t total = 0;
  for (const Array& own : values) total += own.elements();
  const Array flat = Array::empty({total}, DType::u8, values.front().device());
  const bool sends = communicator.rank() == 0;
  const auto copy_all = [&] {
    int64_t offset = 0;
    for (const Array& own : values) {
      const Array place = flat.narrow(0, offset, own.elements());
      sends ? kernels::copy_into(own, place) : kernels::copy_into(place, own);
      offset += own.elements();
    }
  };
  if (sends) copy_all();
  communicator.broadcast(flat, 0, {.what = "buffers"}).wait();
  if (!sends) copy_all();
}

}  // namespace

void broadcast_buffers(Communicator& communicator, const std::vector<NamedBuffer>& buffers) {
  std::vector<Array> on_host, elsewhere;
  for (const NamedBuffer& named : buffers) {
    const Array& own = named.buffer.array();
    (own.device() == Device() ? on_host : elsewhere).push_back(bytes_of(own));
  }
  if (!on_host.empty()) broadcast_bytes(communicator, on_host);
  if (!elsewhere.empty()) broadcast_bytes(communicator, elsewhere);
}

}  // namespace lockstep::nn
