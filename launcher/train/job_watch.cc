#include "lockstep/launcher/train/job_watch.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
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
    // Each rank has two, and some room for those that come back.
    host =
        take(TcpStoreServer::start({.token = token, .connections = 2 * communicator.size() + 64}));
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
  // A host of the store that stands still is condemned when a rank in a collective would be, and
  // never where there is no deadline.
  const milliseconds timeout =
      options_.timeout.count() > 0 ? options_.timeout : milliseconds(60000);
  const milliseconds beat = std::clamp(timeout / 4, milliseconds(50), milliseconds(500));
  const TcpClientOptions client{.connect_within = std::max(timeout, milliseconds(10000)),
                                .answer_within = options_.timeout.count() > 0
                                                     ? timeout + Watch::kBeatsToJudge * beat
                                                     : std::chrono::hours(24 * 365)};
  std::string error;
  try {
    watch_ = std::make_unique<Watch>(
        communicator, [&] { return take(connect_tcp_store(address, client)); },
        Watch::Options{
            .beat_every = beat,
            .tell_changes_every = milliseconds(std::max(50, communicator.size())),
            .store_host = variable("LOCKSTEP_STORE").empty() ? std::optional(0) : std::nullopt,
            // Before a launcher that has seen one rank end kills the others.
            .end_after = milliseconds(200),
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
  write_flight();  // first: the others end when they know, and then the launcher ends this rank
  if (watch_ && !watch_->verdict()) watch_->fail(reason);
}

void JobWatch::write_flight() {
  std::call_once(flight_written_, [this] {
    const int rank = communicator_.rank();
    const std::string name = concat({"flight-rank-", rank});
    write(name + ".json", communicator_.recorder()->to_json(rank));
    write(name + ".trace.json", communicator_.recorder()->to_chrome_trace(rank));
  });
}

// Whole or not at all: this process may be ended at any time.
void JobWatch::write(const std::string& name, const std::string& text) const {
  std::error_code error;
  if (!std::filesystem::is_directory(options_.flight_directory, error)) return;
  const std::filesystem::path path = options_.flight_directory / name;
  const std::filesystem::path unfinished = options_.flight_directory / ("." + name);
  std::ofstream file(unfinished);
  file << text << '\n';
  file.close();
  if (file) std::filesystem::rename(unfinished, path, error);
  if (file && !error) return;
  std::fprintf(stderr, "lockstep: %s cannot be written\n", path.c_str());
}

}  // namespace lockstep::train
