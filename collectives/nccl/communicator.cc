#include "lockstep/collectives/nccl/communicator.h"

#include <exception>
#include <utility>

#include "lockstep/collectives/nccl/meeting.h"
#include "lockstep/collectives/nccl/open.h"
#include "lockstep/collectives/split.h"
#include "lockstep/runtime/backend.h"

namespace lockstep {
namespace nccl {
namespace {

class NcclCommunicator final : public Communicator {
 public:
  // Of group 0 it is the one that ends the worker.
  NcclCommunicator(std::shared_ptr<Worker> worker, int group, const Place& place)
      : Communicator(place.rank, place.size),
        worker_(std::move(worker)),
        group_(group),
        place_(place) {}

  ~NcclCommunicator() override {
    if (group_ != 0) return;
    // An exception is on its way out: the peers may be anywhere, and the end would wait for them.
    if (std::uncaught_exceptions() > exceptions_) worker_->abort("this rank failed");
    worker_->close(timeout());
  }

  std::string_view backend() const override { return "nccl"; }
  Device device() const override { return place_.device; }

  std::unique_ptr<Communicator> split(int color, int key) override {
    const SplitPlace in_part = agree_on_split(*this, color, key);
    auto work = std::make_shared<WorkState>();
    work->collective = Collective::split;
    enlist(work, {.what = "split"});
    const auto group = std::make_shared<int>(0);
    worker_->submit_split(group_, color, in_part.rank, work, group);
    work->wait();
    Place place = place_;
    place.rank = in_part.rank;
    place.size = in_part.size;
    auto part = std::make_unique<NcclCommunicator>(worker_, *group, place);
    part->descend_from(*this, color);
    return part;
  }

  // Memory that NCCL may reduce in without copies, where it has such.
  Array allocate_bucket(int64_t elements, DType dtype) override {
    const size_t bytes = static_cast<size_t>(elements) * size_of(dtype);
    if (bytes == 0) return Communicator::allocate_bucket(elements, dtype);
    Backend& memory = backend_of(device());
    try {
      memory.account(static_cast<int64_t>(bytes));
    } catch (const OutOfMemory&) {  // but what is cached or reserved may have room
      return Communicator::allocate_bucket(elements, dtype);
    }
    void* data = worker_->allocate(group_, bytes);
    if (data == nullptr) {
      memory.trim();
      data = worker_->allocate(group_, bytes);
    }
    if (data == nullptr) {
      memory.account(-static_cast<int64_t>(bytes));
      return Communicator::allocate_bucket(elements, dtype);
    }
    const auto give_back = [worker = worker_, &memory, data, bytes] {
      worker->free(data);
      memory.account(-static_cast<int64_t>(bytes));
    };
    const Ref<Storage> storage = Storage::adopt(device(), data, bytes, give_back);
    return Array(storage, dtype, {elements}, {1}, 0);
  }

  void abort(std::string_view reason) override { worker_->abort(reason); }

 private:
  void start(const std::shared_ptr<WorkState>& work) override { worker_->submit(group_, work); }

  std::shared_ptr<Worker> worker_;
  const int group_;
  const Place place_;
  const int exceptions_ = std::uncaught_exceptions();
};

UniqueId make_id(Library& library) {
  UniqueId id;
  const int code = library.make_unique_id(&id);
  if (code == 0) return id;
  char text[256] = {};
  library.error_text(code, -1, text, sizeof text);
  fail({"NCCL cannot make a new world: ", std::string(text)});
}

}  // namespace

std::unique_ptr<Communicator> make_communicator(Library& library, Store& store, const Place& place,
                                                std::chrono::milliseconds timeout) {
  const UniqueId id = meet(
      store, place.rank, place.size, [&] { return make_id(library); }, timeout);
  auto communicator =
      std::make_unique<NcclCommunicator>(Worker::start(library, id, place, timeout), 0, place);
  communicator->set_timeout(timeout);
  return communicator;
}

}  // namespace nccl

std::unique_ptr<Communicator> make_nccl_communicator(Store& store, const World& world,
                                                     Device device,
                                                     std::chrono::milliseconds timeout) {
  LOCKSTEP_CHECK(device.kind == DeviceKind::cuda, "NCCL is for CUDA devices, not for ",
                 device.to_string());
  const nccl::Place place{.rank = world.rank,
                          .size = world.size,
                          .device = device,
                          .compute = backend_of(device).stream(),
                          .trim = [device] { backend_of(device).trim(); }};
  return nccl::make_communicator(nccl::open_library(device.index), store, place, timeout);
}

}  // namespace lockstep
