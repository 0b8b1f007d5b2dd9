#include "lockstep/launcher/supervise/environment.h"

#include <algorithm>
#include <string_view>

namespace lockstep::supervise {
namespace {

struct Variable {
  std::string_view name;
  std::string_view values;
  std::string_view help;
};

constexpr Variable kVariables[] = {
    {"LOCKSTEP_ISA", "v2|v3|v4",
     "the x86-64 level of the CPU kernels (default: the highest that the processor has)"},
    {"LOCKSTEP_LOG_LEVEL", "error|warning|info|debug",
     "which remarks ranks make on stderr, this level and those before it (default: warning)"},
    {"LOCKSTEP_PLUGIN_DIR", "DIR",
     "where liblockstep_mpi.so and liblockstep_cuda.so lie (default: ../lib beside the program, "
     "else "
     "where it was linked)"},
    {"LOCKSTEP_PROGRESS", "terminal|plain|off",
     "how training shows its progress (default: terminal on one, plain under a launcher)"},
    {"LOCKSTEP_SHARED_WINDOW", "off",
     "ranks of one host reduce through MPI, not through memory that they share"},
    {"LOCKSTEP_STORE", "HOST:PORT",
     "where ranks watch each other, and on GPUs meet (default: `lockstep run` hosts it, without it "
     "rank 0: on GPUs at MASTER_ADDR and MASTER_PORT)"},
    {"LOCKSTEP_STORE_TOKEN", "TEXT", "what LOCKSTEP_STORE wants to hear from those who connect"},
    {"LOCKSTEP_TF32", "1", "f32 matrix products on GPUs may round their operands to TF32"},
    {"LOCKSTEP_TIMEOUT", "TIME", "the default of --timeout"},
    {"LOCKSTEP_TUNE", "0",
     "large matrix products on GPUs take the library's first choice, not the fastest of those "
     "timed"},
};

}  // namespace

std::string environment_help() {
  const auto label = [](const Variable& variable) {
    return std::string(variable.name) + "=" + std::string(variable.values);
  };
  size_t width = 0;
  for (const Variable& variable : kVariables) width = std::max(width, label(variable).size());
  std::string text = "Environment variables that Lockstep's programs read:\n\n";
  for (const Variable& variable : kVariables) {
    std::string name = label(variable);
    name.resize(width, ' ');
    text += "  " + name + "  " + std::string(variable.help) + "\n";
  }
  return text +
         "\nRank and world come from what launched the program: RANK, OMPI_COMM_WORLD_RANK, "
         "PMIX_RANK,\n"
         "PMI_RANK or SLURM_PROCID, and the variables beside it.\n";
}

}  // namespace lockstep::supervise
