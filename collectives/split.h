#pragma once

#include "lockstep/collectives/communicator.h"

namespace lockstep {

// This rank's place among the ranks that passed the same color.
struct SplitPlace {
  int rank = 0;
  int size = 1;
};

// Gathers every rank's color and key: a collective call, with its errors and its deadline.
SplitPlace agree_on_split(Communicator& communicator, int color, int key);

}  // namespace lockstep
