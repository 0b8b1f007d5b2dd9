#include "lockstep/runtime/parallel.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <thread>
#include <vector>

#include "lockstep/runtime/context.h"
#include "lockstep/runtime/log.h"

namespace lockstep {

int thread_count() {
  const int asked = context().threads;
  if (asked > 0) return asked;
  static const int available = available_cpus();
  return available;
}

namespace internal {
namespace {

thread_local bool inside_a_loop = false;

struct Loop {
  int64_t count = 0;
  int64_t grain = 1;
  int64_t pieces = 0;  // of `grain` items
  int64_t parts = 0;   // of pieces: what a thread takes at once
  RangeFunction function = nullptr;
  const void* body = nullptr;

  // noexcept: a body that throws ends the process, since other threads are still inside it.
  void run(int64_t part) const noexcept {
    const int64_t begin = pieces * part / parts * grain;
    const int64_t end = std::min(count, pieces * (part + 1) / parts * grain);
    function(body, begin, end);
  }
};

// The threads that help one caller. The caller takes parts like the others and waits only for those
// that another thread has begun: a helper that the system does not run costs nothing but its help.
// (An OpenMP loop ends when every thread of the team has come, which takes milliseconds on a
// machine that is shared.)
class Team {
 public:
  // Where the system has no more threads, those that it has started do the work.
  explicit Team(int helpers) : asked_(helpers) {
    try {
      helpers_.reserve(static_cast<size_t>(helpers));
      for (int i = 0; i < helpers; ++i) helpers_.emplace_back([this] { help(); });
    } catch (const std::exception&) {  // the next one would fail as well
    }
  }

  ~Team() {
    stopping_.store(true, std::memory_order_relaxed);
    announced_.fetch_add(1, std::memory_order_release);
    announced_.notify_all();
    for (std::thread& helper : helpers_) helper.join();
  }

  int asked() const { return asked_; }
  int helpers() const { return static_cast<int>(helpers_.size()); }

  void run(const Loop& loop) {
    loop_ = loop;
    unfinished_.store(loop.parts, std::memory_order_relaxed);
    const uint32_t number = announced_.load(std::memory_order_relaxed) + 1;
    tickets_.store(uint64_t{number} << 32 | static_cast<uint64_t>(loop.parts),
                   std::memory_order_release);
    announced_.store(number, std::memory_order_release);
    announced_.notify_all();
    work(number);
    for (int spins = 0; unfinished_.load(std::memory_order_acquire) > 0; ++spins) {
      pause(spins);
    }
  }

 private:
  // About a tenth of a millisecond: longer than what lies between the loops of a step.
  static constexpr int kSpins = 2000;

  static void pause(int spins) {
    if (spins < kSpins) {
      __builtin_ia32_pause();
    } else {
      std::this_thread::yield();
    }
  }

  void help() {
    inside_a_loop = true;
    uint32_t seen = 0;
    while (true) {
      for (int spins = 0; announced_.load(std::memory_order_acquire) == seen; ++spins) {
        if (spins < kSpins) {
          __builtin_ia32_pause();
        } else {
          announced_.wait(seen, std::memory_order_acquire);
        }
      }
      if (stopping_.load(std::memory_order_relaxed)) return;
      seen = announced_.load(std::memory_order_acquire);
      work(seen);
    }
  }

  // Takes parts of loop `number` until none is left. loop_ may be read once a part is taken: the
  // caller changes it only when every part is finished.
  void work(uint32_t number) {
    uint64_t tickets = tickets_.load(std::memory_order_acquire);
    while (tickets >> 32 == number && (tickets & 0xffffffffu) != 0) {
      if (!tickets_.compare_exchange_weak(tickets, tickets - 1, std::memory_order_acq_rel,
                                          std::memory_order_acquire)) {
        continue;
      }
      loop_.run(loop_.parts - static_cast<int64_t>(tickets & 0xffffffffu));
      unfinished_.fetch_sub(1, std::memory_order_release);
      tickets = tickets_.load(std::memory_order_acquire);
    }
  }

  Loop loop_;
  alignas(64) std::atomic<uint64_t> tickets_{0};  // the loop's number, then the parts not yet taken
  alignas(64) std::atomic<int64_t> unfinished_{0};  // parts
  alignas(64) std::atomic<uint32_t> announced_{0};  // the newest loop's number
  std::atomic<bool> stopping_{false};
  int asked_;
  std::vector<std::thread> helpers_;
};

// Every thread that runs loops has a team of its own: ranks that are threads of one process do not
// wait for each other.
Team& team_of(int threads) {
  thread_local std::unique_ptr<Team> team;
  if (team && team->asked() == threads - 1) return *team;
  team = std::make_unique<Team>(threads - 1);
  if (team->helpers() < team->asked()) {
    log(LogLevel::warning, {"the system starts no more threads: loops run on ", team->helpers() + 1,
                            " instead of ", threads});
  }
  return *team;
}

}  // namespace

void run_parallel(int64_t count, int64_t grain, RangeFunction function, const void* body) {
  const int64_t pieces = (count + grain - 1) / grain;
  const int threads = inside_a_loop ? 1 : thread_count();
  if (threads <= 1 || pieces <= 1) return function(body, 0, count);
  // Parts of equal work need not end at the same time: several for each thread even that out.
  const int64_t parts = std::min<int64_t>(pieces, int64_t{4} * threads);
  Team& team = team_of(threads);
  inside_a_loop = true;
  team.run({count, grain, pieces, parts, function, body});  // throws nothing
  inside_a_loop = false;
}

}  // namespace internal
}  // namespace lockstep
