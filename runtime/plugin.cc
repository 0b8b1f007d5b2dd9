#include "lockstep/runtime/plugin.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>

namespace lockstep {
namespace {

namespace fs = std::filesystem;

// Its path, or the bare name: the dynamic linker then looks in the program's RUNPATH and where
// shared libraries lie.
fs::path path_of(const char* file_name) {
  if (const char* chosen = std::getenv("LOCKSTEP_PLUGIN_DIR"); chosen != nullptr && *chosen != 0) {
    return fs::path(chosen) / file_name;
  }
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  const fs::path beside = (program.parent_path() / "../lib" / file_name).lexically_normal();
  return !error && fs::exists(beside, error) ? beside : file_name;
}

}  // namespace

Plugin open_plugin(const char* file_name) {
  Plugin plugin;
  plugin.path = path_of(file_name).string();
  plugin.handle = dlopen(plugin.path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (plugin.handle == nullptr) plugin.error = dlerror();
  plugin.where = concat({file_name, " in the folder that LOCKSTEP_PLUGIN_DIR names, or in ../lib ",
                         "beside the program's, or where shared libraries are looked for"});
  return plugin;
}

void* Plugin::find(const char* name) const {
  void* found = dlsym(handle, name);
  LOCKSTEP_CHECK(found != nullptr, path, " is of another version of Lockstep: ", name,
                 " is missing");
  return found;
}

}  // namespace lockstep
