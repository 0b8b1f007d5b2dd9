#pragma once

#include "lockstep/collectives/mpi/library.h"

namespace lockstep::mpi {

// Opens the MPI plugin, for as long as the process lives: in the folder that LOCKSTEP_PLUGIN_DIR
// names, or else in ../lib beside the program's, or where the dynamic linker finds it (CMake's
// targets give programs the library folder as RUNPATH). Throws Error that says where it looked and
// what to install.
Library& open_library();

}  // namespace lockstep::mpi
