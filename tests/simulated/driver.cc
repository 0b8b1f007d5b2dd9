#include "lockstep/runtime/cuda/driver.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/runtime/cuda/grid.h"
#include "lockstep/runtime/error.h"
#include "simulated/recorder.h"

// A device of the host's memory. Nobody but kernels and the driver's copies can touch it: the pages
// are locked at all other times, so that a pointer of the device used on the host is a fault here
// as it is with a GPU. All work is done when it is queued, but for copies of pinned memory: they
// are done when somebody waits, or at the next other work.
namespace lockstep::cuda {
namespace {

constexpr int kDevices = 4;
constexpr size_t kArenaBytes = size_t{8} << 30;  // of address space
constexpr size_t kDeviceBytes = size_t{2} << 30;
constexpr size_t kPageBytes = size_t{2} << 20;

// The memory of all simulated devices.
class Arena {
 public:
  Arena() {
    void* begin = mmap(nullptr, kArenaBytes + kPageBytes, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (begin == MAP_FAILED) std::abort();
    begin_ = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(begin) + kPageBytes - 1) &
                                     ~uintptr_t{kPageBytes - 1});
    madvise(begin_, kArenaBytes, MADV_HUGEPAGE);
  }

  void* take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    bytes = (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
    for (auto& [data, size] : free_) {
      if (size != bytes) continue;
      char* found = data;
      free_.erase(found);
      sizes_[found] = bytes;
      return found;
    }
    if (used_ + bytes > kArenaBytes) return nullptr;
    char* data = begin_ + used_;
    used_ += bytes;
    sizes_[data] = bytes;
    if (users_ > 0) protect(PROT_READ | PROT_WRITE);
    return data;
  }
  size_t give_back(void* data) {
    const std::lock_guard lock(mutex_);
    const auto found = sizes_.find(static_cast<char*>(data));
    const size_t bytes = found->second;
    free_[found->first] = bytes;
    sizes_.erase(found);
    return bytes;
  }
  void enter() {
    const std::lock_guard lock(mutex_);
    if (users_++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  void leave() {
    const std::lock_guard lock(mutex_);
    if (--users_ == 0) protect(PROT_NONE);
  }

 private:
  void protect(int how) {
    if (used_ != 0) mprotect(begin_, used_, how);
  }

  std::mutex mutex_;
  char* begin_;
  size_t used_ = 0;
  int users_ = 0;
  std::map<char*, size_t> sizes_, free_;
};

Arena& arena() {
  static Arena& memory = *new Arena;
  return memory;
}

// Pinned memory, and copies to and from it that are still to be done.
class Pinned {
 public:
  void* take(size_t bytes) {
    char* data = static_cast<char*>(std::malloc(bytes));
    const std::lock_guard lock(mutex_);
    pieces_[data] = bytes;
    return data;
  }
  void give_back(void* data) {
    copy_now();
    const std::lock_guard lock(mutex_);
    pieces_.erase(static_cast<char*>(data));
    std::free(data);
  }
  bool has(const void* data) {
    const std::lock_guard lock(mutex_);
    return std::any_of(pieces_.begin(), pieces_.end(), [&](const auto& piece) {
      return piece.first <= data && data < piece.first + piece.second;
    });
  }
  void copy_later(std::function<void()> copy) {
    const std::lock_guard lock(mutex_);
    copies_.push_back(std::move(copy));
  }
  void copy_now() {
    const std::lock_guard lock(mutex_);
    const std::vector<std::function<void()>> copies = std::exchange(copies_, {});
    for (const auto& copy : copies) copy();
  }

 private:
  std::recursive_mutex mutex_;  // a copy, too, has access to the device
  std::map<char*, size_t> pieces_;
  std::vector<std::function<void()>> copies_;
};

Pinned& pinned() {
  static Pinned& memory = *new Pinned;
  return memory;
}

using Tape = std::vector<std::function<void()>>;

// Which streams are captured, and what has been queued on them.
class Captures {
 public:
  void begin(Stream stream) {
    const std::lock_guard lock(mutex_);
    LOCKSTEP_CHECK(tapes_.try_emplace(stream, std::make_unique<Tape>()).second,
                   "this stream is captured already");
    ++count_;
  }
  std::unique_ptr<Tape> end(Stream stream) {
    const std::lock_guard lock(mutex_);
    auto tape = tapes_.extract(stream);
    LOCKSTEP_CHECK(!tape.empty(), "this stream is not captured");
    --count_;
    return std::move(tape.mapped());
  }
  bool has(Stream stream) {
    if (count_ == 0) return false;
    const std::lock_guard lock(mutex_);
    return tapes_.contains(stream);
  }
  void add(Stream stream, std::function<void()> work) {
    const std::lock_guard lock(mutex_);
    tapes_.at(stream)->push_back(std::move(work));
  }

 private:
  std::atomic<int> count_{0};
  std::mutex mutex_;
  std::map<Stream, std::unique_ptr<Tape>> tapes_;
};

Captures& captures() {
  static Captures& all = *new Captures;
  return all;
}

simulated::GraphRecorder& recorder() {
  thread_local simulated::GraphRecorder own;
  return own;
}

// A stream is a number: what is queued on it is done at once.
Stream next_stream() {
  static std::atomic<uintptr_t> made{0};
  return reinterpret_cast<Stream>(++made << 8);
}

class SimulatedDriver final : public Driver {
 public:
  DeviceProperties properties() override {
    return {.name = "simulated device", .major = 9, .minor = 0, .multiprocessors = 4};
  }

  void use() override {}

  void* allocate(size_t bytes) override {
    const std::lock_guard lock(mutex_);
    if (held_ + bytes > kDeviceBytes) return nullptr;
    void* data = arena().take(bytes);
    if (data != nullptr) {
      // What is not written shows: NaN in every floating dtype.
      const DeviceAccess access;
      std::memset(data, 0xff, bytes);
      held_ += bytes;
      asked_[data] = bytes;
    }
    return data;
  }
  void free(void* data) override {
    const std::lock_guard lock(mutex_);
    arena().give_back(data);
    held_ -= asked_[data];
    asked_.erase(data);
  }
  void* allocate_pinned(size_t bytes) override { return pinned().take(bytes); }
  void free_pinned(void* data) noexcept override { pinned().give_back(data); }
  Stream make_stream() override { return next_stream(); }

  void copy(void* to, const void* from, size_t bytes, Stream stream) override {
    const auto copy = [=] {
      const DeviceAccess access;
      std::memmove(to, from, bytes);
    };
    if (pinned().has(to) || pinned().has(from)) return pinned().copy_later(copy);
    do_or_write_down(stream, copy);
  }
  void set_zero(void* to, size_t bytes, Stream stream) override {
    do_or_write_down(stream, [=] {
      const DeviceAccess access;
      std::memset(to, 0, bytes);
    });
  }
  // As on a device, nothing waits for what is only written down.
  void synchronize(Stream stream) override {
    LOCKSTEP_CHECK(!is_captured(stream), "waiting for a stream that is captured");
    pinned().copy_now();
  }

  Event record(Stream stream) override {
    LOCKSTEP_CHECK(!is_captured(stream), "an event on a stream that is captured");
    return reinterpret_cast<Event>(new Clock::time_point(Clock::now()));
  }
  Event record_in_graph(Stream stream) override {
    auto* event = new Clock::time_point;
    const auto record = [event] { *event = Clock::now(); };
    write_down(stream, record);
    return reinterpret_cast<Event>(event);
  }
  bool is_reached(Event) override {
    pinned().copy_now();
    return true;
  }
  void wait(Event) override { pinned().copy_now(); }
  double seconds_between(Event from, Event to) override {
    return std::chrono::duration<double>(time_of(to) - time_of(from)).count();
  }
  void destroy(Event event) noexcept override { delete &time_of(event); }

  void begin_capture(Stream stream) override { captures().begin(stream); }
  Graph end_capture(Stream stream, Stream) override {
    return reinterpret_cast<Graph>(captures().end(stream).release());
  }
  void abandon_capture(Stream stream) noexcept override { captures().end(stream); }
  void launch(Graph graph, Stream stream) override {
    LOCKSTEP_CHECK(!is_captured(stream), "a graph within a graph");
    recorder().work.clear();
    for (const auto& work : *reinterpret_cast<Tape*>(graph)) {
      recorder().work.push_back(work.target_type().name());
      work();
    }
  }
  void destroy(Graph graph) noexcept override { delete reinterpret_cast<Tape*>(graph); }

 private:
  using Clock = std::chrono::steady_clock;
  static Clock::time_point& time_of(Event event) {
    return *reinterpret_cast<Clock::time_point*>(event);
  }

  std::mutex mutex_;
  size_t held_ = 0;
  std::map<void*, size_t> asked_;
};

}  // namespace

bool is_captured(Stream stream) { return captures().has(stream); }
void write_down(Stream stream, std::function<void()> work) {
  captures().add(stream, std::move(work));
}

DeviceAccess::DeviceAccess() {
  pinned().copy_now();
  arena().enter();
}
DeviceAccess::~DeviceAccess() { arena().leave(); }

std::unique_ptr<Driver> make_driver(int index) {
  LOCKSTEP_CHECK(index < kDevices, "there is no device cuda:", index, ": this machine has ",
                 kDevices);
  return std::make_unique<SimulatedDriver>();
}

int visible_devices() { return kDevices; }

}  // namespace lockstep::cuda

extern "C" __attribute__((visibility("default"))) lockstep::simulated::GraphRecorder*
lockstep_simulated_graph_recorder() {
  return &lockstep::cuda::recorder();
}
