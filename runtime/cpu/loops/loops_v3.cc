// The inner loops for x86-64-v3 processors.
#include "lockstep/runtime/cpu/loops/simd_math.h"

namespace lockstep::cpu {
namespace {
constexpr int kVectorBytes = 32;
constexpr int kTileRows = 6;  // of a matrix product: what fits the vector registers
}  // namespace
}  // namespace lockstep::cpu

#include "lockstep/runtime/cpu/loops/level_loops.h"

namespace lockstep::cpu {

constinit const Loops kLoopsV3 = level_loops();

}  // namespace lockstep::cpu
