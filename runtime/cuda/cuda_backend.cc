#include "lockstep/runtime/cuda/cuda_backend.h"

#include <utility>

#include "lockstep/runtime/cuda/cuda_kernels.h"

namespace lockstep::cuda {
namespace {

class EventMark final : public Mark {
 public:
  EventMark(Driver& driver, Event event) : driver_(driver), event_(event) {}
  ~EventMark() override { driver_.destroy(event_); }
  void* event() const override { return event_; }

 private:
  Driver& driver_;
  const Event event_;
};

Event event_of(const Mark& mark) { return static_cast<Event>(mark.event()); }

}  // namespace

CudaBackend::CudaBackend(Device device, std::unique_ptr<Driver> driver, std::unique_ptr<Blas> blas,
                         std::unique_ptr<Dnn> dnn)
    : device_(device),
      driver_(std::move(driver)),
      properties_(driver_->properties()),
      memory_(*driver_, device),
      blas_(std::move(blas)),
      dnn_(std::move(dnn)),
      queue_(driver_->make_stream(), properties_.multiprocessors, *driver_, memory_, *blas_, *dnn_),
      host_copies_(*driver_),
      kernels_(std::make_unique<CudaKernels>(queue_)),
      capture_stream_(driver_->make_stream()) {}

CudaBackend::~CudaBackend() = default;

std::string CudaBackend::description() const {
  return concat(
      {properties_.name, ", compute capability ", properties_.major, ".", properties_.minor});
}

void* CudaBackend::allocate(size_t bytes, const char* holder) {
  return memory_.allocate(bytes, holder);
}
void CudaBackend::deallocate(void* data, size_t) { memory_.deallocate(data); }
void CudaBackend::account(int64_t bytes) { memory_.account(bytes); }
void CudaBackend::trim() { memory_.trim(); }
void CudaBackend::set_limit(int64_t bytes) { memory_.set_limit(bytes); }
void CudaBackend::reserve(int64_t bytes) { memory_.reserve(bytes); }
MemoryStatistics CudaBackend::statistics() const { return memory_.statistics(); }

void CudaBackend::copy_from_host(void* to, const void* from, size_t bytes) {
  queue_.refuse_capture("an array that the host brings");
  host_copies_.to_device(to, from, bytes, queue_.stream());
}
void CudaBackend::copy_to_host(void* to, const void* from, size_t bytes) {
  queue_.refuse_capture("a value that the host waits for");
  host_copies_.to_host(to, from, bytes, queue_.stream());
}
void CudaBackend::synchronize() {
  queue_.refuse_capture("waiting for the device");
  driver_->synchronize(queue_.stream());
}
void* CudaBackend::stream() { return queue_.stream(); }

std::unique_ptr<Mark> CudaBackend::mark() {
  if (queue_.captures()) return nullptr;
  return std::make_unique<EventMark>(*driver_, driver_->record(queue_.stream()));
}
std::unique_ptr<Mark> CudaBackend::mark_in_capture() {
  if (!queue_.captures()) return nullptr;
  return std::make_unique<EventMark>(*driver_, driver_->record_in_graph(queue_.stream()));
}
bool CudaBackend::is_reached(const Mark& mark) { return driver_->is_reached(event_of(mark)); }
double CudaBackend::seconds_between(const Mark& from, const Mark& to) {
  return driver_->seconds_between(event_of(from), event_of(to));
}

void CudaBackend::begin_capture(const RandomKey& key) {
  LOCKSTEP_CHECK(!Detour::is_on(), "a capture within a capture");
  capturing_ = std::make_unique<CudaGraph>(*driver_, memory_, queue_, capture_stream_, key);
}

std::unique_ptr<Capture> CudaBackend::end_capture() {
  LOCKSTEP_CHECK(queue_.captures(), "end_capture() without begin_capture()");
  std::unique_ptr<CudaGraph> capture = std::move(capturing_);
  capture->end();
  return capture;
}

void CudaBackend::abandon_capture() {
  if (queue_.captures()) capturing_.reset();
}

void CudaBackend::on_shortage(const void* who, std::function<bool()> let_captures_go) {
  memory_.on_shortage(who, std::move(let_captures_go));
}

}  // namespace lockstep::cuda
