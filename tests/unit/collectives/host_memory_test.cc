#include "lockstep/collectives/mpi/host_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <string>

namespace lockstep::mpi {
namespace {

constexpr int kRanks = 2;
constexpr size_t kBytes = 100'000;

// What two processes have in common.
struct Table {
  pthread_barrier_t barrier;
  char messages[kRanks][256];
};

class HostMemoryTest : public ::testing::Test {
 protected:
  HostMemoryTest() {
    void* memory =
        ::mmap(nullptr, sizeof(Table), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    table_ = static_cast<Table*>(memory);
    pthread_barrierattr_t shared;
    pthread_barrierattr_init(&shared);
    pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&table_->barrier, &shared, kRanks);
  }
  ~HostMemoryTest() override { ::munmap(table_, sizeof(Table)); }

  // Gives a rank the messages of all; `seen` is called when all have come, before any goes on.
  Exchange exchange(
      int rank, std::function<void()> seen = [] {}) {
    return [this, rank, seen](const void* mine, void* all, int bytes) {
      std::memcpy(table_->messages[rank], mine, static_cast<size_t>(bytes));
      meet();
      for (int other = 0; other < kRanks; ++other) {
        std::memcpy(static_cast<char*>(all) + other * bytes, table_->messages[other],
                    static_cast<size_t>(bytes));
      }
      seen();
      meet();
    };
  }

  // The same for all ranks, each a process: 0 where all is well, or the number of what is not.
  void run(const std::function<int(int rank)>& body, bool apart = false) {
    pid_t ranks[kRanks];
    for (int rank = 0; rank < kRanks; ++rank) {
      ranks[rank] = ::fork();
      if (ranks[rank] != 0) continue;
      ::alarm(20);
      if (apart && rank == 1) hide_process();
      ::_exit(body(rank));
    }
    for (int rank = 0; rank < kRanks; ++rank) {
      int status = -1;
      ::waitpid(ranks[rank], &status, 0);
      EXPECT_EQ(status, 0) << "rank " << rank;
    }
  }

  // Writes to the own segment what the other rank finds in it.
  static bool is_shared(const HostMemory& memory, int rank, const std::function<void()>& meet) {
    const char own = static_cast<char>('a' + rank), others = static_cast<char>('a' + 1 - rank);
    std::memset(memory.own(), own, kBytes);
    meet();
    const auto* other = reinterpret_cast<const char*>(memory.segment(1 - rank));
    return other[0] == others && other[kBytes - 1] == others;
  }

  void meet() { pthread_barrier_wait(&table_->barrier); }

 private:
  // The rank goes on in a process that others' /proc shows under another number, or not at all; or,
  // without the right to namespaces, in one whose descriptors nobody else may see.
  static void hide_process() {
    if (::unshare(CLONE_NEWPID) != 0) {
      if (::prctl(PR_SET_DUMPABLE, 0) != 0) ::_exit(99);
      return;
    }
    const pid_t inside = ::fork();
    if (inside == 0) {
      ::alarm(20);
      return;
    }
    int status = -1;
    ::waitpid(inside, &status, 0);
    ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 98);
  }

  Table* table_;
};

int count_named(pid_t process) {
  const std::string begin = "lockstep-" + std::to_string(process) + "-";
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    count += entry.path().filename().string().starts_with(begin);
  }
  return count;
}

int open_files() {
  int count = 0;
  for (int file = 0; file < 256; ++file) count += ::fcntl(file, F_GETFD) >= 0;
  return count;
}

TEST_F(HostMemoryTest, HasNoNameThatARankCouldLeaveBehind) {
  run([&](int rank) {
    int named = 0;
    HostGroup group(rank, kRanks, exchange(rank, [&] { named += count_named(::getpid()); }));
    const int files = open_files();
    std::string reason;
    const auto memory = group.allocate(kBytes, &reason);
    if (!memory || named != 0) return 1;
    if (group.files() != SegmentFiles::nameless || open_files() != files) return 2;
    return is_shared(*memory, rank, [&] { meet(); }) ? 0 : 3;
  });
}

TEST_F(HostMemoryTest, IsFoundByNameWhereProcessesDoNotSeeEachOther) {
  run(
      [&](int rank) {
        HostGroup group(rank, kRanks, exchange(rank));
        const int files = open_files();
        for (int time = 0; time < 2; ++time) {
          std::string reason;
          const auto memory = group.allocate(kBytes, &reason);
          if (!memory || !is_shared(*memory, rank, [&] { meet(); })) return 1;
          meet();
          if (group.files() != SegmentFiles::named || open_files() != files) return 2;
        }
        return count_named(::getpid()) == 0 ? 0 : 3;
      },
      true);
}

TEST_F(HostMemoryTest, IsRefusedOnAllRanksWhereOneHasNoRoom) {
  run([&](int rank) {
    // As a full /dev/shm would refuse it; the signal that comes with the error is not of interest.
    const rlimit limit{2 * kBytes, 2 * kBytes};
    ::signal(SIGXFSZ, SIG_IGN);
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 4;
    HostGroup group(rank, kRanks, exchange(rank));
    const int files = open_files();
    std::string reason;
    const size_t bytes = rank == 1 ? 3 * kBytes : kBytes;
    if (group.allocate(bytes, &reason)) return 1;
    if (!reason.starts_with("rank 1: ") || open_files() != files) return 2;
    const auto memory = group.allocate(kBytes, &reason);
    return memory && group.files() == SegmentFiles::nameless ? 0 : 3;
  });
}

}  // namespace
}  // namespace lockstep::mpi
