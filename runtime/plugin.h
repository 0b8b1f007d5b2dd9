#pragma once

#include <string>

#include "lockstep/runtime/error.h"

namespace lockstep {

// A shared library of Lockstep's own that is opened when it is needed, because what it stands on
// may be missing, or costs too much at each start. Never closed: such libraries leave threads and
// exit handlers behind.
struct Plugin {
  void* handle = nullptr;  // null: it cannot be opened
  std::string path;
  std::string error;  // the dynamic linker's
  std::string where;  // where it was expected, for errors

  // Throws Error where the library has none of that name.
  template <class Function>
  Function function(const char* name) const {
    return reinterpret_cast<Function>(find(name));
  }

 private:
  void* find(const char* name) const;
};

// In the folder that LOCKSTEP_PLUGIN_DIR names; else in ../lib beside the program's; else where the
// program was linked to look and where shared libraries lie.
Plugin open_plugin(const char* file_name);

}  // namespace lockstep
