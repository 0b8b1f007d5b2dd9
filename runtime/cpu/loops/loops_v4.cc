// The inner loops for x86-64-v4 processors.
#include "lockstep/runtime/cpu/loops/simd_math.h"

namespace lockstep::cpu {
namespace {
constexpr int kVectorBytes = 64;
constexpr int kTileRows = 8;  // of a matrix product: what fits the vector registers
}  // namespace
}  // namespace lockstep::cpu

#include "lockstep/runtime/cpu/loops/level_loops.h"

namespace lockstep::cpu {

constinit const Loops kLoopsV4 = level_loops();

}  // namespace lockstep::cpu
