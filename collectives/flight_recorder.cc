#include "lockstep/collectives/flight_recorder.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "lockstep/collectives/work_state.h"

namespace lockstep {
namespace {

using Entry = FlightRecorder::Entry;
using Clock = FlightRecorder::Clock;

// Names and errors are the user's, and may be no UTF-8.
constexpr auto kReplace = nlohmann::ordered_json::error_handler_t::replace;

Entry entry_of(const WorkState& work) {
  const WorkState::Progress progress = work.progress();
  return {.sequence = work.sequence,
          .communicator = work.communicator,
          .signature = work.signature(),
          .what = work.what,
          .bucket = work.bucket,
          .step = work.step,
          .phase = work.phase,
          .queued = progress.queued,
          .begun = progress.begun,
          .ended = progress.ended,
          .error = progress.error};
}

const char* state_of(const Entry& entry) {
  if (!entry.error.empty()) return "failed";
  if (entry.ended) return "done";
  return entry.begun ? "running" : "queued";
}

double microseconds(Clock::duration duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

}  // namespace

void FlightRecorder::add(std::shared_ptr<const WorkState> work) {
  const std::lock_guard lock(mutex_);
  if (works_.size() == capacity_) works_.pop_front();
  works_.push_back(std::move(work));
}

std::vector<Entry> FlightRecorder::entries() const {
  const std::lock_guard lock(mutex_);
  std::vector<Entry> result;
  for (const auto& work : works_) result.push_back(entry_of(*work));
  return result;
}

std::string Entry::call() const {
  std::string text = signature;
  if (!what.empty()) text += concat({" \"", what, "\""});
  if (bucket >= 0) text += concat({", bucket ", bucket});
  return text;
}

std::optional<Entry> FlightRecorder::newest(
    const std::function<bool(const WorkState&)>& is_meant) const {
  const std::lock_guard lock(mutex_);
  const auto found = std::find_if(works_.rbegin(), works_.rend(),
                                  [&](const auto& work) { return is_meant(*work); });
  if (found == works_.rend()) return std::nullopt;
  return entry_of(**found);
}

std::optional<Entry> FlightRecorder::last(const std::string& communicator) const {
  return newest([&](const WorkState& work) { return work.communicator == communicator; });
}

std::optional<Entry> FlightRecorder::last_begun(const std::string& communicator) const {
  return newest([&](const WorkState& work) {
    return work.communicator == communicator && work.progress().begun.has_value();
  });
}

std::string FlightRecorder::to_json(int rank) const {
  const Clock::time_point now = Clock::now();
  const auto ago = [now](Clock::time_point time) {
    return std::chrono::duration<double>(now - time).count();
  };
  nlohmann::ordered_json collectives = nlohmann::ordered_json::array();
  for (const Entry& entry : entries()) {
    nlohmann::ordered_json item{{"sequence", entry.sequence},
                                {"communicator", entry.communicator},
                                {"collective", entry.signature},
                                {"what", entry.what},
                                {"bucket", entry.bucket},
                                {"step", entry.step},
                                {"phase", entry.phase},
                                {"state", state_of(entry)},
                                {"queued_seconds_ago", ago(entry.queued)}};
    if (entry.begun) item["begun_seconds_ago"] = ago(*entry.begun);
    if (entry.ended) item["ended_seconds_ago"] = ago(*entry.ended);
    if (!entry.error.empty()) item["error"] = entry.error;
    collectives.push_back(std::move(item));
  }
  return nlohmann::ordered_json{{"rank", rank}, {"collectives", std::move(collectives)}}.dump(
      1, ' ', false, kReplace);
}

std::string FlightRecorder::to_chrome_trace(int rank, Clock::time_point origin) const {
  const Clock::time_point now = Clock::now();
  using Json = nlohmann::ordered_json;
  Json events = Json::array();
  std::map<std::string, int> threads;
  for (const Entry& entry : entries()) {
    if (entry.queued < origin) continue;
    const Clock::time_point begun = entry.begun.value_or(entry.queued);
    const Clock::time_point ended = entry.ended.value_or(now);
    const int thread =
        threads.try_emplace(entry.communicator, static_cast<int>(threads.size())).first->second;
    std::string name = entry.what.empty() ? entry.signature : entry.what;
    if (entry.bucket >= 0) name += " " + std::to_string(entry.bucket);
    events.push_back({{"name", name},
                      {"cat", "collective"},
                      {"ph", "X"},
                      {"ts", microseconds(begun - origin)},
                      {"dur", microseconds(ended - begun)},
                      {"pid", rank},
                      {"tid", thread},
                      {"args",
                       {{"sequence", entry.sequence},
                        {"collective", entry.signature},
                        {"step", entry.step},
                        {"phase", entry.phase},
                        {"state", state_of(entry)},
                        {"queued_before_us", microseconds(begun - entry.queued)}}}});
  }
  const auto name = [&](const char* what, int thread, const std::string& text) {
    events.push_back(
        {{"name", what}, {"ph", "M"}, {"pid", rank}, {"tid", thread}, {"args", {{"name", text}}}});
  };
  name("process_name", 0, "rank " + std::to_string(rank));
  for (const auto& [communicator, thread] : threads) name("thread_name", thread, communicator);
  return Json{{"traceEvents", std::move(events)}}.dump(-1, ' ', false, kReplace);
}

}  // namespace lockstep
