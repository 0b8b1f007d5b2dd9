// Batch norm over MPI processes. mpirun -n 2 batch_norm_mpi trains tests/data/cnn_bn with each
// rank's own statistics and with those of all ranks. With --other-layers the ranks share the
// statistics of different layers of one size ("mismatch reported" on every rank).
#include <unistd.h>

#include <cstdio>
#include <string_view>

#include "lockstep/autograd/ops/creation.h"
#include "lockstep/collectives/world.h"
#include "support/recorded_cnn.h"

namespace lockstep::testing {
namespace {

void run_other_layers(Communicator& communicator) {
  nn::ModuleList norms(nn::BatchNorm1d(3), nn::BatchNorm1d(3));
  nn::synchronize_batch_norm(norms, communicator);
  try {
    norms.get<nn::BatchNorm1d>(communicator.rank() % 2)(zeros({2, 3}));
  } catch (const CollectiveError& error) {
    const std::string_view text = error.what();
    LOCKSTEP_CHECK(text.find("\"batch statistics of 0\"") != text.npos &&
                       text.find("\"batch statistics of 1\"") != text.npos,
                   "'", text, "' does not name both layers");
    std::printf("mismatch reported: %s\n", error.what());
    return;
  }
  fail({"the statistics of different layers were shared"});
}

int run(std::string_view mode) {
  try {
    const auto communicator = make_communicator(World::from_env());
    if (mode == "--other-layers") {
      run_other_layers(*communicator);
    } else {
      for (const bool synchronized : {false, true}) train_recorded_cnn(*communicator, synchronized);
    }
    std::fflush(nullptr);
    // After a failure a thread may still be inside MPI.
    if (!mode.empty()) _exit(0);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "batch_norm_mpi: %s\n", error.what());
    _exit(1);
  }
}

}  // namespace
}  // namespace lockstep::testing

int main(int argc, char** argv) { return lockstep::testing::run(argc > 1 ? argv[1] : ""); }
