#include "lockstep/collectives/mpi/open.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "lockstep/runtime/error.h"

namespace lockstep::mpi {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFileName = "liblockstep_mpi.so";

std::vector<fs::path> folders() {
  if (const char* chosen = std::getenv("LOCKSTEP_PLUGIN_DIR"); chosen != nullptr && *chosen != 0) {
    return {chosen};
  }
  std::vector<fs::path> result;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (!error) result.push_back((program.parent_path() / "../lib").lexically_normal());
  result.emplace_back(LOCKSTEP_LIBRARY_DIR);
  return result;
}

fs::path find_plugin() {
  std::string tried;
  for (const fs::path& folder : folders()) {
    std::error_code error;
    if (fs::exists(folder / kFileName, error)) return folder / kFileName;
    tried += (tried.empty() ? "" : " and ") + folder.string();
  }
  fail({"several ranks on CPUs need MPI, but the plugin ", kFileName, " is not in ", tried,
        ": install MPI (apt-get install openmpi-bin libopenmpi-dev) and build again; "
        "LOCKSTEP_PLUGIN_DIR names another folder"});
}

}  // namespace

Library& open_library() {
  const fs::path path = find_plugin();
  // Never closed: MPI leaves threads and exit handlers behind.
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    fail({"cannot open the MPI plugin: ", dlerror(),
          "; is MPI installed? (apt-get install openmpi-bin)"});
  }
  void* function = dlsym(handle, kLibraryFunction);
  LOCKSTEP_CHECK(function != nullptr, path.string(), " is no MPI plugin: ", kLibraryFunction,
                 " is missing");
  return *reinterpret_cast<LibraryFunction>(function)();
}

}  // namespace lockstep::mpi
