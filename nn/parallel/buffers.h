#pragma once

#include <utility>
#include <vector>

#include "lockstep/collectives/communicator.h"
#include "lockstep/nn/module.h"

namespace lockstep::nn {

// Buffers that all ranks take over from rank 0. Those of one device are moved side by side, so that
// they travel in one collective and nothing is copied.
class SharedBuffers {
 public:
  explicit SharedBuffers(const std::vector<NamedBuffer>& buffers);

  // Begins to give all ranks rank 0's values: a collective for each device, none where there are no
  // buffers. They are there when the works have been waited for.
  std::vector<Work> broadcast(Communicator& communicator);

 private:
  struct Flat {
    Device device;
    Array bytes;
    std::vector<std::pair<Buffer, int64_t>> places;  // with the offset of each
  };
  void gather();
  bool gathered() const;

  std::vector<Buffer> buffers_;
  std::vector<Flat> flats_;  // one for each device
};

}  // namespace lockstep::nn
