#include <cstring>
#include <mutex>
#include <optional>

#include "lockstep/collectives/communicator.h"
#include "lockstep/collectives/work_state.h"
#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep {
namespace {

class SingleCommunicator final : public Communicator {
 public:
  explicit SingleCommunicator(Device device) : Communicator(0, 1), device_(device) {}

  std::string_view backend() const override { return "single"; }
  Device device() const override { return device_; }

  std::unique_ptr<Communicator> split(int color, int /*key*/) override {
    LOCKSTEP_CHECK(color >= 0, "split: color is ", color, ", expected 0 or more");
    auto part = std::make_unique<SingleCommunicator>(device_);
    part->descend_from(*this, color);
    return part;
  }

  void abort(std::string_view reason) override {
    const std::lock_guard lock(mutex_);
    if (!broken_) broken_ = reason;
  }

 private:
  void start(const std::shared_ptr<WorkState>& work) override {
    {
      const std::lock_guard lock(mutex_);
      if (broken_) return work->fail(*broken_);
    }
    work->begin();
    // Reductions and means over one rank are the values themselves.
    if (work->elements > 0 && work->input.data() != work->output.data()) {
      copy(work->input, work->output);
    }
    work->finish();
  }

  static void copy(const Array& from, const Array& to) {
    if (from.device() == Device()) {
      std::memcpy(to.data(), from.data(), from.bytes());
    } else {
      backend_of(from.device()).kernels().copy(from.view(), to.view());
    }
  }

  const Device device_;

  std::mutex mutex_;
  std::optional<std::string> broken_;
};

}  // namespace

std::unique_ptr<Communicator> make_single_communicator(Device device) {
  return std::make_unique<SingleCommunicator>(device);
}

}  // namespace lockstep
