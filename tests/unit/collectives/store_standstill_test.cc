// A process of the job is stopped for a while, as a virtual machine may be, and goes on.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <thread>

#include "lockstep/collectives/store/tcp_store.h"

namespace lockstep {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kSoon{300};
constexpr milliseconds kLong{20000};
constexpr milliseconds kStandstill{1500};

// Runs `body` in a process of its own, which ends with the code that it returns.
class Process {
 public:
  explicit Process(const std::function<int()>& body) : pid_(::fork()) {
    if (pid_ == 0) ::_exit(body());
  }
  ~Process() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  void signal(int number) const { ASSERT_EQ(::kill(pid_, number), 0); }
  int wait() {
    int status = -1;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_;
};

// A number from one process to another.
struct Pipe {
  Pipe() { EXPECT_EQ(::pipe(ends), 0); }
  ~Pipe() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
  void put(int value) const { EXPECT_EQ(::write(ends[1], &value, sizeof value), sizeof value); }
  int get() const {
    int value = 0;
    EXPECT_EQ(::read(ends[0], &value, sizeof value), sizeof value);
    return value;
  }
  int ends[2];
};

// Those who left it while it could not answer are not dead: they had given it up.
TEST(StoreStandstillTest, AHostDoesNotExecuteTheWillsOfThatTime) {
  const Pipe pipe;
  const Process host([&] {
    const auto server = TcpStoreServer::start({.token = "secret"});
    pipe.put((*server)->port());
    for (;;) ::pause();
    return 0;
  });
  const TcpStoreAddress address{"127.0.0.1", pipe.get(), "secret"};
  const auto heir = *connect_tcp_store(address);
  auto gives_up = *connect_tcp_store(address);
  ASSERT_TRUE(gives_up->set_will("gone", "first").ok());
  host.signal(SIGSTOP);
  std::this_thread::sleep_for(kStandstill);
  gives_up.reset();
  host.signal(SIGCONT);
  EXPECT_TRUE(absl::IsDeadlineExceeded(heir->get("gone", kSoon).status()));
  std::this_thread::sleep_for(kStandstill);
  auto dies = *connect_tcp_store(address);
  ASSERT_TRUE(dies->set_will("gone", "second").ok());
  dies.reset();
  EXPECT_EQ(*heir->get("gone", kLong), "second");
}

TEST(StoreStandstillTest, AClientTakesTheAnswerThatHasComeMeanwhile) {
  const Pipe port, asks;
  Process guest([&] {
    const auto client =
        connect_tcp_store({"127.0.0.1", port.get(), "secret"}, {.answer_within = kStandstill / 2});
    if (!client.ok()) return 1;
    asks.put(1);
    const auto value = (*client)->get("key", milliseconds(0) + kStandstill / 3);
    return value.ok() && *value == "value" ? 0 : 2;
  });
  const auto server = TcpStoreServer::start({.token = "secret"});
  ASSERT_TRUE(server.ok()) << server.status();
  port.put((*server)->port());
  const auto client = *connect_tcp_store({"127.0.0.1", (*server)->port(), "secret"});
  asks.get();
  std::this_thread::sleep_for(kStandstill / 10);
  guest.signal(SIGSTOP);
  ASSERT_TRUE(client->set("key", "value").ok());
  std::this_thread::sleep_for(kStandstill);
  guest.signal(SIGCONT);
  EXPECT_EQ(guest.wait(), 0);
}

}  // namespace
}  // namespace lockstep
