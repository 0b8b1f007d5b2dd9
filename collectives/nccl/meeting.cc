#include "lockstep/collectives/nccl/meeting.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "lockstep/runtime/error.h"

namespace lockstep::nccl {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr milliseconds kLookAgainAfter{10};
constexpr milliseconds kForEver = std::chrono::hours(24 * 365);

// Keys: a rank says hello with its number, gets the id, confirms it by repeating it, and goes on
// when all have. What ranks of an attempt before left behind confirms another id.
constexpr const char* kHello = "nccl/hello/";
constexpr const char* kId = "nccl/id/";
constexpr const char* kConfirmed = "nccl/confirmed/";
constexpr const char* kGo = "nccl/go/";

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

void check(const absl::Status& status) {
  LOCKSTEP_CHECK(status.ok(), "the ranks cannot meet: ", std::string(status.message()));
}

template <class T>
T take(absl::StatusOr<T> result) {
  check(result.status());
  return *std::move(result);
}

TcpStoreAddress address_of(const std::string& name, const std::string& host,
                           const std::string& port) {
  const int number = std::atoi(port.c_str());
  if (host.empty() || number <= 0 || number > 65535) {
    fail_usage({name, " says host '", host, "' and port '", port, "', expected both"});
  }
  return {host, number, variable("LOCKSTEP_STORE_TOKEN")};
}

[[noreturn]] void fail_late(int rank, int size, const std::vector<int>& missing,
                            milliseconds timeout) {
  std::string names;
  for (const int each : missing) names += concat({names.empty() ? "" : ", ", each});
  fail({"the ", size, " ranks have not met within ", timeout.count(), " ms, as rank ", rank,
        " sees it; ranks not seen: ", names});
}

// Answers until everybody has confirmed: who died before that may come again.
void answer_all(Store& store, int size, const UniqueId& id, Clock::time_point deadline,
                milliseconds timeout) {
  const std::string_view text(id.bytes, sizeof id.bytes);
  std::map<std::string, std::string> answered;  // number by key of the hello
  for (;;) {
    const auto hellos = take(store.list(kHello));
    const auto confirmed = take(store.list(kConfirmed));
    std::vector<int> missing;
    for (int rank = 1; rank < size; ++rank) {
      const std::string key = kHello + std::to_string(rank);
      const auto hello = hellos.find(key);
      if (hello == hellos.end()) {
        missing.push_back(rank);
        continue;
      }
      const std::string& number = hello->second;
      if (std::string& last = answered[key]; last != number) {
        check(store.set(kId + number, text));
        if (!last.empty()) {
          check(store.remove(kId + last).status());
          check(store.remove(kConfirmed + last).status());
        }
        last = number;
      }
      const auto word = confirmed.find(kConfirmed + number);
      if (word == confirmed.end() || word->second != text) missing.push_back(rank);
    }
    if (missing.empty()) break;
    if (Clock::now() >= deadline) fail_late(0, size, missing, timeout);
    std::this_thread::sleep_for(kLookAgainAfter);
  }
  for (const auto& [key, number] : answered) check(store.set(kGo + number, ""));
  for (const auto& [key, number] : answered) {
    for (const std::string& each : {key, kId + number, kConfirmed + number}) {
      check(store.remove(each).status());
    }
  }
}

UniqueId ask(Store& store, int rank, int size, Clock::time_point deadline, milliseconds timeout) {
  const std::string number = take(random_token());
  check(store.set(kHello + std::to_string(rank), number));
  const auto await = [&](const std::string& key) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now());
    return store.get(key, std::max(left, milliseconds(0)));
  };
  const auto text = await(kId + number);
  if (absl::IsDeadlineExceeded(text.status())) fail_late(rank, size, {0}, timeout);
  check(text.status());
  UniqueId id;
  LOCKSTEP_CHECK(text->size() == sizeof id.bytes, "the id of NCCL's world has ", text->size(),
                 " bytes, expected ", sizeof id.bytes);
  std::memcpy(id.bytes, text->data(), sizeof id.bytes);
  check(store.set(kConfirmed + number, *text));
  const auto go = await(kGo + number);
  if (absl::IsDeadlineExceeded(go.status())) {
    const auto hellos = take(store.list(kHello));
    const auto confirmed = take(store.list(kConfirmed));
    std::vector<int> missing;
    for (int each = 1; each < size; ++each) {
      const auto hello = hellos.find(kHello + std::to_string(each));
      const bool seen = hello != hellos.end() && confirmed.contains(kConfirmed + hello->second);
      if (!seen) missing.push_back(each);
    }
    fail_late(rank, size, missing, timeout);
  }
  check(go.status());
  check(store.remove(kGo + number).status());
  return id;
}

}  // namespace

JobStore connect_job_store(const World& world, milliseconds timeout) {
  JobStore job;
  TcpStoreAddress address;
  if (const std::string given = variable("LOCKSTEP_STORE"); !given.empty()) {
    const size_t colon = given.rfind(':');
    const bool both = colon != std::string::npos;
    address = address_of("LOCKSTEP_STORE", given.substr(0, both ? colon : 0),
                         both ? given.substr(colon + 1) : "");
  } else if (const std::string master = variable("MASTER_ADDR"); !master.empty()) {
    address = address_of("MASTER_ADDR and MASTER_PORT", master, variable("MASTER_PORT"));
    if (world.rank == 0) {
      job.host = take(TcpStoreServer::start({.port = address.port, .token = address.token}));
      address.host = "127.0.0.1";
    }
  } else {
    fail_usage({world.source, " says rank ", world.rank, " of ", world.size,
                ", but not where ranks on CUDA devices meet: use `lockstep run`, or set ",
                "MASTER_ADDR and MASTER_PORT to an address of rank 0"});
  }
  job.store = take(connect_tcp_store(
      address, {.connect_within = timeout == timeout.zero() ? kForEver : timeout}));
  return job;
}

UniqueId meet(Store& store, int rank, int size, const std::function<UniqueId()>& make_id,
              milliseconds timeout) {
  const Clock::time_point deadline =
      Clock::now() + (timeout == timeout.zero() ? kForEver : timeout);
  if (rank != 0) return ask(store, rank, size, deadline, timeout);
  const UniqueId id = make_id();
  answer_all(store, size, id, deadline, timeout);
  return id;
}

}  // namespace lockstep::nccl
