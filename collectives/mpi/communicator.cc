#include <cstdlib>
#include <exception>
#include <utility>

#include "lockstep/collectives/communicator.h"
#include "lockstep/collectives/mpi/open.h"
#include "lockstep/collectives/mpi/worker.h"
#include "lockstep/collectives/split.h"
#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/log.h"

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
    const auto work = own_collective(Collective::split, "split");
    const auto group = std::make_shared<int>(0);
    worker_->submit_split(group_, color, key, work, group);
    work->wait();
    auto part = std::make_unique<MpiCommunicator>(
        worker_, Place{.group = *group, .rank = place.rank, .size = place.size}, false);
    part->descend_from(*this, color);
    return part;
  }

  // A gradient bucket of the world lies where the ranks of a host all reach it, if it can.
  Array allocate_bucket(int64_t elements, DType dtype) override {
    const size_t bytes = static_cast<size_t>(elements) * size_of(dtype);
    if (group_ != 0 || size() == 1) return Communicator::allocate_bucket(elements, dtype);
    Backend& memory_of_rank = backend_of(device());
    memory_of_rank.account(static_cast<int64_t>(bytes));
    const auto allocation = std::make_shared<HostAllocation>();
    const auto give_back = [allocation, &memory_of_rank, bytes] {
      memory_of_rank.account(-static_cast<int64_t>(bytes));
    };
    const auto work = own_collective(Collective::barrier, "bucket memory");
    worker_->submit_allocation(bytes, work, allocation);
    work->wait();
    if (!allocation->memory) {
      give_back();
      report_refusal(bytes, allocation->reason);
      return Communicator::allocate_bucket(elements, dtype);
    }
    const HostMemory& memory = *allocation->memory;
    const Ref<Storage> storage = Storage::adopt(device(), memory.own(), memory.bytes(), give_back);
    return Array(storage, dtype, {elements}, {1}, 0);
  }

  void abort(std::string_view reason) override { worker_->abort(reason); }

 private:
  std::shared_ptr<WorkState> own_collective(Collective collective, std::string_view what) {
    auto work = std::make_shared<WorkState>();
    work->collective = collective;
    enlist(work, {.what = what});
    return work;
  }

  void report_refusal(size_t bytes, const std::string& reason) {
    if (reason.empty() || rank() != 0 || std::exchange(refusal_reported_, true)) return;
    log(LogLevel::warning,
        {static_cast<double>(bytes) / (1 << 20),
         " MiB of gradients are reduced through MPI, not shared memory: ", reason});
  }

  void start(const std::shared_ptr<WorkState>& work) override { worker_->submit(group_, work); }

  std::shared_ptr<Worker> worker_;
  int group_;
  bool owns_worker_;
  bool refusal_reported_ = false;
  int exceptions_ = std::uncaught_exceptions();
};

// What serves threads that compute beside MPI; the user's own settings come first. ob1 starts ten
// times as fast as probing for network hardware, and waiting calls yield their core. Over TCP a
// message of up to 1 MiB goes without a handshake, which would wait behind what this host is
// sending: two ranks that exchange such messages would take turns.
void set_defaults() {
  setenv("OMPI_MCA_pml", "ob1", 0);
  setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
  constexpr const char* kMessage = "1052672";  // 1 MiB and MPI's own header
  setenv("OMPI_MCA_btl_tcp_eager_limit", kMessage, 0);
  setenv("OMPI_MCA_btl_tcp_max_send_size", kMessage, 0);
  setenv("OMPI_MCA_btl_tcp_free_list_inc", "8", 0);  // such messages are held in blocks
}

}  // namespace
}  // namespace mpi

std::unique_ptr<Communicator> make_mpi_communicator(std::chrono::milliseconds start_within) {
  mpi::Library& library = mpi::open_library();
  mpi::set_defaults();
  auto worker = mpi::Worker::start(library, start_within);
  const mpi::Place place{.group = 0, .rank = worker->rank(), .size = worker->size()};
  return std::make_unique<mpi::MpiCommunicator>(std::move(worker), place, true);
}

}  // namespace lockstep
