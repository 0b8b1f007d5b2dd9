#pragma once

#include "lockstep/collectives/mpi/library.h"

namespace lockstep::mpi {

// Opens the MPI plugin, for as long as the process lives: the folder that LOCKSTEP_PLUGIN_DIR
// names, or else ../lib beside the program's folder, or the library folder of the build. Throws
// Error that says where it looked and what to install.
Library& open_library();

}  // namespace lockstep::mpi
