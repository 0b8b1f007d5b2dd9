#pragma once

#include <string>
#include <vector>

#include "lockstep/collectives/communicator.h"
#include "lockstep/nn/module.h"

namespace lockstep::nn {

// Throws Error on all ranks where their parameters differ in name, shape, dtype or freezing, or
// `options` do: it names the first difference and both ranks. And where any rank has a `refusal`,
// one line. A collective call.
void check_same_model(Communicator& communicator, const std::vector<NamedParameter>& parameters,
                      const std::string& options = "", const std::string& refusal = "");

// All ranks get rank 0's values. A collective call.
void broadcast_values(Communicator& communicator, const std::vector<Array>& values,
                      std::string_view what);

}  // namespace lockstep::nn
