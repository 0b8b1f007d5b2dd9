#include "lockstep/collectives/mpi/open.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>

#include "lockstep/runtime/error.h"

namespace lockstep::mpi {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFileName = "liblockstep_mpi.so";

// The plugin's path, or its bare name: the dynamic linker then looks where the program was linked
// to look (its RUNPATH) and where shared libraries lie.
fs::path plugin() {
  if (const char* chosen = std::getenv("LOCKSTEP_PLUGIN_DIR"); chosen != nullptr && *chosen != 0) {
    return fs::path(chosen) / kFileName;
  }
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  const fs::path beside = (program.parent_path() / "../lib" / kFileName).lexically_normal();
  return !error && fs::exists(beside, error) ? beside : kFileName;
}

}  // namespace

Library& open_library() {
  const fs::path path = plugin();
  // Never closed: MPI leaves threads and exit handlers behind.
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    fail({"several ranks on CPUs need MPI, whose plugin cannot be opened: ", dlerror(),
          "; expected ", kFileName, " in the folder that LOCKSTEP_PLUGIN_DIR names, or in ../lib ",
          "beside the program's, or where shared libraries are looked for, and MPI installed ",
          "(apt-get install openmpi-bin; to build the plugin libopenmpi-dev, too)"});
  }
  void* function = dlsym(handle, kLibraryFunction);
  LOCKSTEP_CHECK(function != nullptr, path.string(), " is no MPI plugin: ", kLibraryFunction,
                 " is missing");
  return *reinterpret_cast<LibraryFunction>(function)();
}

}  // namespace lockstep::mpi
