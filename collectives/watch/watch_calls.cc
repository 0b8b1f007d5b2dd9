// What ranks say of their calls once a collective is late, where their transport does not compare
// them.
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "lockstep/collectives/call_difference.h"
#include "lockstep/collectives/flight_recorder.h"
#include "lockstep/collectives/watch/watch.h"
#include "lockstep/collectives/work_state.h"

namespace lockstep {
namespace {

// Around the late one: hosts may be ahead of it, and NCCL may have let some pass before.
constexpr uint64_t kTellBefore = 8, kTellAfter = 64;

using Calls = std::map<std::string, std::string>;  // by their number

}  // namespace

bool Watch::compares_calls(const WorkState& work) const {
  return communicator_.device() != Device() && work.communicator == communicator_.name();
}

std::string Watch::calls_key() const { return options_.job + "/calls/"; }

void Watch::tell_calls(const WorkState& work) {
  Calls calls;
  for (const FlightRecorder::Entry& entry : communicator_.recorder()->entries()) {
    const bool near = entry.sequence + kTellBefore >= work.sequence &&
                      entry.sequence <= work.sequence + kTellAfter;
    if (near && entry.communicator == communicator_.name()) {
      calls[std::to_string(entry.sequence)] = entry.call();
    }
  }
  const std::string text =
      nlohmann::json(calls).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  beats_->set(calls_key() + std::to_string(communicator_.rank()), text).IgnoreError();
}

// The first call that is not the same on all ranks of which it is known.
std::string Watch::different_calls(const Beats& beats) {
  const std::string prefix = calls_key();
  const auto told = beats_->list(prefix);
  if (!told.ok()) return "";
  std::map<uint64_t, std::map<int, std::string>> calls;  // by number and rank
  for (const auto& [rank, beat] : beats) {
    if (!beat.collective.empty()) calls[beat.sequence][rank] = beat.collective;
  }
  for (const auto& [key, text] : *told) {
    const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) continue;
    const int rank = std::atoi(key.c_str() + prefix.size());
    for (const auto& [number, call] : json.get<Calls>()) calls[std::stoull(number)][rank] = call;
  }
  for (const auto& [number, of_ranks] : calls) {
    std::vector<RankCall> made;
    for (const auto& [rank, call] : of_ranks) {
      made.push_back({rank, std::hash<std::string>()(call), concat({call, " as #", number})});
    }
    if (std::string difference = describe_difference(made); !difference.empty()) return difference;
  }
  return "";
}

}  // namespace lockstep
