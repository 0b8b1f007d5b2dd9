#pragma once

#include <vector>

#include "lockstep/collectives/communicator.h"
#include "lockstep/nn/module.h"

namespace lockstep::nn {

// All ranks get rank 0's values, in one collective; in none where there are no buffers.
void broadcast_buffers(Communicator& communicator, const std::vector<NamedBuffer>& buffers);

}  // namespace lockstep::nn
