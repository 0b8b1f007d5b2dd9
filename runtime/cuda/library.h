#pragma once

// What the CUDA library (liblockstep_cuda.so) has for the program that opens it.
namespace lockstep {

class Backend;

namespace cuda {

// Opens a device; it is the caller's for as long as the process lives. Throws Error telling what is
// missing. The name changes with what crosses: a library of another version is not found in one.
inline constexpr const char* kOpenFunction = "lockstep_cuda_open_3";
using OpenFunction = Backend* (*)(int index);
// How many devices this process sees.
inline constexpr const char* kCountFunction = "lockstep_cuda_count_1";
using CountFunction = int (*)();

}  // namespace cuda
}  // namespace lockstep
