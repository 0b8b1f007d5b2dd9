#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace lockstep::supervise {

class RankOutput;

// Between mpirun and a rank's program stands, for a moment, this program itself: it knows its rank,
// points stdout and stderr at the pipes of the `lockstep run` that waits, and becomes the program.
// mpirun's own forwarding would tear lines apart.
inline constexpr const char* kRankCommand = "rank-of";

// The words to put before the program's: "…/lockstep rank-of PID 5,7,9,11 3 1024". Each rank puts
// its process id, a pid_t, into the pipe `started_end`, and takes the limit on descriptors (0: the
// one it has).
std::vector<std::string> rank_words(const RankOutput& output, int ranks, int started_end,
                                    uint64_t descriptor_limit);

// Runs what rank_words wrote (without the program's name and command). Returns only on failure,
// with an exit code.
int rank_main(std::span<const std::string> words);

}  // namespace lockstep::supervise
