#include "lockstep/launcher/supervise/store_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "lockstep/collectives/store/tcp_store.h"

namespace lockstep::supervise {
namespace {

using std::chrono::milliseconds;

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}

TcpStoreAddress address_in(const std::vector<std::string>& environment) {
  require(environment.size() == 2, "expected two variables");
  const std::string where = "LOCKSTEP_STORE=127.0.0.1:", token = "LOCKSTEP_STORE_TOKEN=";
  require(environment[0].starts_with(where), environment[0].c_str());
  require(environment[1].starts_with(token), environment[1].c_str());
  return {"127.0.0.1", std::stoi(environment[0].substr(where.size())),
          environment[1].substr(token.size())};
}

[[noreturn]] void use_a_store() {
  auto process = StoreProcess::start(2);
  require(process.ok(), "does not start");
  const pid_t pid = (*process)->pid();
  TcpStoreAddress address = address_in((*process)->environment());
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) ::kill(pid, signal);

  const auto a = connect_tcp_store(address), b = connect_tcp_store(address);
  require(a.ok() && b.ok(), "does not answer");
  require((*a)->set("key", "value").ok(), "does not keep a value");
  const auto value = (*b)->get("key", milliseconds(0));
  require(value.ok() && *value == "value", "has lost a value");
  const std::string token = std::exchange(address.token, "another");
  require(!connect_tcp_store(address, {.connect_within = milliseconds(1000)}).ok(),
          "takes any token");

  process->reset();
  require(::kill(pid, 0) != 0 && errno == ESRCH, "has not ended");
  require(!(*a)->set("key", "value").ok(), "still answers");
  std::exit(0);
}

// In a process of its own, which has one thread.
TEST(StoreProcess, HostsAStoreThatOutlivesRequestsToStopAndEndsWithItsOwner) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(use_a_store(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace lockstep::supervise
