#include "lockstep/collectives/mpi/open.h"

#include "lockstep/runtime/plugin.h"

namespace lockstep::mpi {

Library& open_library() {
  const Plugin plugin = open_plugin("liblockstep_mpi.so");
  if (plugin.handle == nullptr) {
    fail({"several ranks on CPUs need MPI, whose plugin cannot be opened: ", plugin.error,
          "; expected ", plugin.where,
          ", and MPI installed (apt-get install openmpi-bin; to build ",
          "the plugin libopenmpi-dev, too)"});
  }
  return *plugin.function<LibraryFunction>(kLibraryFunction)();
}

}  // namespace lockstep::mpi
