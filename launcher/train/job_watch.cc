#include "lockstep/launcher/train/job_watch.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "lockstep/collectives/flight_recorder.h"
#include "lockstep/collectives/store/tcp_store.h"
#include "lockstep/launcher/train/agreement.h"
#include "lockstep/launcher/train/status.h"
#include "lockstep/runtime/log.h"

namespace lockstep::train {
namespace {

using std::chrono::milliseconds;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

struct Meeting {
  TcpStoreAddress store;
  bool by_rank_0 = false;
  std::string job;  // what this job's keys begin with: others may meet there, too
};

TcpStoreAddress address_from_environment(const std::string& text) {
  const size_t colon = text.rfind(':');
  const int port = colon == std::string::npos ? 0 : std::atoi(text.c_str() + colon + 1);
  if (port <= 0) fail_usage({"LOCKSTEP_STORE is '", text, "', expected host:port"});
  return {text.substr(0, colon), port, variable("LOCKSTEP_STORE_TOKEN")};
}

// Rank 0 says where the store is.
Meeting agree_on_meeting(Communicator& communicator, const World& world,
                         std::unique_ptr<TcpStoreServer>& host) {
  std::string text;
  agree(communicator, "store", [&] {
    if (communicator.rank() != 0) return;
    TcpStoreAddress address;
    if (const std::string given = variable("LOCKSTEP_STORE"); !given.empty()) {
      address = address_from_environment(given);
    } else {
      host = take(TcpStoreServer::start_for_ranks(communicator.size()));
      address = {own_address(world, std::getenv), host->port(), host->token()};
    }
    text = nlohmann::json{address.host, address.port, address.token, host != nullptr,
                          take(random_token())}
               .dump();
  });
  const auto said = nlohmann::json::parse(broadcast_text(communicator, text, 0, "store address"));
  return {.store = {.host = said[0], .port = said[1], .token = said[2]},
          .by_rank_0 = said[3],
          .job = said[4]};
}

}  // namespace

std::string own_address(const World& world, const std::function<const char*(const char*)>& lookup) {
  if (world.local_size_known && world.local_size == world.size) return "127.0.0.1";
  if (const char* master = lookup("MASTER_ADDR"); master != nullptr && *master != 0) return master;
  char name[256] = {};
  ::gethostname(name, sizeof name - 1);
  return name;
}

JobWatch::JobWatch(Communicator& communicator, const World& world, Options options)
    : communicator_(communicator), options_(std::move(options)) {
  if (communicator.size() == 1) return;
  const Meeting meeting = agree_on_meeting(communicator, world, host_);
  if (communicator.rank() == 0) {
    log(LogLevel::info, {"the ranks meet at ", meeting.store.host, ":", meeting.store.port,
                         meeting.by_rank_0 ? ", which rank 0 hosts" : ", as LOCKSTEP_STORE says"});
  }
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
        communicator, [&] { return take(connect_tcp_store(meeting.store, client)); },
        Watch::Options{.job = meeting.job,
                       .beat_every = beat,
                       .tell_changes_every = milliseconds(std::max(50, communicator.size())),
                       .store_host = meeting.by_rank_0 ? std::optional(0) : std::nullopt,
                       // Before a launcher that has seen one rank end kills the others.
                       .end_after = milliseconds(200),
                       .end_process = [this](const std::string& report) {
                         write_flight();
                         options_.end_process(report);
                       }});
  } catch (const Error& failure) {
    error = failure.what();
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
  log(LogLevel::warning, {path.string(), " cannot be written"});
}

}  // namespace lockstep::train
