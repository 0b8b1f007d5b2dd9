#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lockstep {

// What a rank calls as the collective of one number.
struct RankCall {
  int rank = 0;
  uint64_t kind = 0;  // the same where ranks do alike
  std::string text;
};

// `ranks called different collectives: rank 0 …; rank 2 …; 3 of 4 ranks do as rank 0`: names one of
// those who are most, and the first of the others. Empty where all do alike.
std::string describe_difference(const std::vector<RankCall>& calls);

}  // namespace lockstep
