#include "lockstep/launcher/train/job_watch.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "lockstep/collectives/flight_recorder.h"
#include "lockstep/collectives/store/tcp_store.h"
#include "lockstep/launcher/train/agreement.h"
#include "lockstep/launcher/train/status.h"

namespace lockstep::train {
namespace {

using std::chrono::milliseconds;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// 128 bits in hexadecimal digits.
std::string random_token() {
  unsigned char bytes[16];
  LOCKSTEP_CHECK(::getrandom(bytes, sizeof bytes, 0) == sizeof bytes, "no random numbers");
  std::string token;
  for (unsigned char byte : bytes) {
    token += "0123456789abcdef"[byte >> 4];
    token += "0123456789abcdef"[byte & 15];
  }
  return token;
}

// Where the other ranks find this host.
std::string own_address(const World& world) {
  if (world.local_size == world.size) return "127.0.0.1";
  if (const std::string master = variable("MASTER_ADDR"); !master.empty()) return master;
  char name[256] = {};
  ::gethostname(name, sizeof name - 1);
  return name;
}

TcpStoreAddress address_from_environment(const std::string& text) {
  const size_t colon = text.rfind(':');
  const int port = colon == std::string::npos ? 0 : std::atoi(text.c_str() + colon + 1);
  if (port <= 0) fail_usage({"LOCKSTEP_STORE is '", text, "', expected host:port"});
  return {text.substr(0, colon), port, variable("LOCKSTEP_STORE_TOKEN")};
}

// Rank 0 says where the store is; the text is host, port and token.
TcpStoreAddress agree_on_address(Communicator& communicator, const World& world,
                                 std::unique_ptr<TcpStoreServer>& host) {
  if (const std::string given = variable("LOCKSTEP_STORE"); !given.empty()) {
    return address_from_environment(given);
  }
  std::string text;
  agree(communicator, "store", [&] {
    if (communicator.rank() != 0) return;
    const std::string token = random_token();
    host = take(TcpStoreServer::start({.token = token}));
    text = concat({own_address(world), " ", host->port(), " ", token});
  });
  std::istringstream words(broadcast_text(communicator, text, 0, "store address"));
  TcpStoreAddress address;
  words >> address.host >> address.port >> address.token;
  return address;
}

}  // namespace

JobWatch::JobWatch(Communicator& communicator, const World& world, Options options)
    : communicator_(communicator), options_(std::move(options)) {
  if (communicator.size() == 1) return;
  const TcpStoreAddress address = agree_on_address(communicator, world, host_);
  // A host of the store that stands still is late when a rank in a collective would be: not earlier
  // than the deadline, and never where there is none.
  const milliseconds timeout =
      options_.timeout.count() > 0 ? options_.timeout : milliseconds(60000);
  const milliseconds beat = std::clamp(timeout / 4, milliseconds(50), milliseconds(500));
  const TcpClientOptions client{.connect_within = std::max(timeout, milliseconds(10000)),
                                .answer_within = options_.timeout.count() > 0
                                                     ? std::max(timeout, milliseconds(500))
                                                     : std::chrono::hours(24 * 365)};
  std::string error;
  try {
    watch_ = std::make_unique<Watch>(
        communicator, [&] { return take(connect_tcp_store(address, client)); },
        Watch::Options{.beat_every = beat,
                       .store_host = variable("LOCKSTEP_STORE").empty() ? "rank 0" : "the launcher",
                       .end_process = [this](const std::string& report) {
                         write_flight();
                         options_.end_process(report);
                       }});
  } catch (const Error& failure) {
    error = concat({"rank ", communicator.rank(), ": ", failure.what()});
  }
  agree_on(communicator, "watch", error, 1);
}

JobWatch::~JobWatch() = default;

void JobWatch::fail(const std::string& reason) {
  if (watch_) watch_->fail(reason);
  write_flight();
}

void JobWatch::write_flight() const {
  if (options_.flight_directory.empty()) return;
  const int rank = communicator_.rank();
  const std::string name = concat({"flight-rank-", rank});
  std::ofstream(options_.flight_directory / (name + ".json"))
      << communicator_.recorder()->to_json(rank) << '\n';
  std::ofstream(options_.flight_directory / (name + ".trace.json"))
      << communicator_.recorder()->to_chrome_trace(rank) << '\n';
}

}  // namespace lockstep::train
