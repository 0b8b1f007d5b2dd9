#include <cstdlib>
#include <exception>

#include "lockstep/collectives/communicator.h"
#include "lockstep/collectives/mpi/open.h"
#include "lockstep/collectives/mpi/worker.h"
#include "lockstep/collectives/split.h"

namespace lockstep {
namespace mpi {
namespace {

struct Place {
  int group = 0;
  int rank = 0;
  int size = 1;
};

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(std::shared_ptr<Worker> worker, Place place, bool owns_worker)
      : Communicator(place.rank, place.size),
        worker_(std::move(worker)),
        group_(place.group),
        owns_worker_(owns_worker) {}

  ~MpiCommunicator() override {
    if (!owns_worker_) return;
    // An exception is on its way out: the peers may be anywhere, and Finalize would wait for them.
    if (std::uncaught_exceptions() > exceptions_) worker_->abort("this rank failed");
    worker_->close(timeout());
  }

  std::string_view backend() const override { return "mpi"; }

  std::unique_ptr<Communicator> split(int color, int key) override {
    const SplitPlace place = agree_on_split(*this, color, key);
    auto work = std::make_shared<WorkState>();
    work->collective = Collective::split;
    work->sequence = collectives_started();
    work->rank = rank();
    work->size = size();
    work->timeout = timeout();
    const auto group = std::make_shared<int>(0);
    worker_->submit_split(group_, color, key, work, group);
    work->wait();
    auto part = std::make_unique<MpiCommunicator>(
        worker_, Place{.group = *group, .rank = place.rank, .size = place.size}, false);
    part->set_timeout(timeout());
    return part;
  }

  void abort(std::string_view reason) override { worker_->abort(reason); }

 private:
  void start(const std::shared_ptr<WorkState>& work) override { worker_->submit(group_, work); }

  std::shared_ptr<Worker> worker_;
  int group_;
  bool owns_worker_;
  int exceptions_ = std::uncaught_exceptions();
};

// What serves threads that compute beside MPI; the user's own settings come first. ob1 starts ten
// times as fast as probing for network hardware, and waiting calls yield their core.
void set_defaults() {
  setenv("OMPI_MCA_pml", "ob1", 0);
  setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
}

}  // namespace
}  // namespace mpi

std::unique_ptr<Communicator> make_mpi_communicator() {
  mpi::Library& library = mpi::open_library();
  mpi::set_defaults();
  auto worker = mpi::Worker::start(library);
  const mpi::Place place{.group = 0, .rank = worker->rank(), .size = worker->size()};
  return std::make_unique<mpi::MpiCommunicator>(std::move(worker), place, true);
}

}  // namespace lockstep
