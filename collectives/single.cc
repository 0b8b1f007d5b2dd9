#include <cstring>
#include <mutex>
#include <optional>

#include "lockstep/collectives/communicator.h"
#include "lockstep/collectives/work_state.h"

namespace lockstep {
namespace {

class SingleCommunicator final : public Communicator {
 public:
  SingleCommunicator() : Communicator(0, 1) {}

  std::string_view backend() const override { return "single"; }

  std::unique_ptr<Communicator> split(int color, int /*key*/) override {
    LOCKSTEP_CHECK(color >= 0, "split: color is ", color, ", expected 0 or more");
    auto part = std::make_unique<SingleCommunicator>();
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
      std::memcpy(work->output.data(), work->input.data(), work->input.bytes());
    }
    work->finish();
  }

  std::mutex mutex_;
  std::optional<std::string> broken_;
};

}  // namespace

std::unique_ptr<Communicator> make_single_communicator() {
  return std::make_unique<SingleCommunicator>();
}

}  // namespace lockstep
