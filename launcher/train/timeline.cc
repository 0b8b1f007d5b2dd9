#include "lockstep/launcher/train/timeline.h"

#include <nlohmann/json.hpp>

#include "lockstep/collectives/flight_recorder.h"
#include "lockstep/launcher/train/status.h"
#include "lockstep/runtime/files/file_system.h"

namespace lockstep::train {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMostSpans = 20'000;
constexpr int kMostRanks = 8;
constexpr int kThread = 1000;  // where a trace shows phases; communicators come before

double microseconds(Timeline::Clock::duration duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

}  // namespace

Timeline::Timeline(Communicator& communicator) : communicator_(communicator) {
  communicator_.barrier({.what = "start of the trace"}).wait();
  origin_ = Clock::now();
}

void Timeline::add(std::string_view name, int64_t step, Clock::time_point begin,
                   Clock::time_point end) {
  if (spans_.size() == kMostSpans) spans_.pop_front();
  spans_.push_back({std::string(name), step, begin, end});
}

// The members of an array of events, without its brackets.
std::string Timeline::events() const {
  const int rank = communicator_.rank();
  if (rank >= kMostRanks) return "";
  Json events =
      Json::parse(communicator_.recorder()->to_chrome_trace(rank, origin_)).at("traceEvents");
  events.push_back({{"name", "thread_name"},
                    {"ph", "M"},
                    {"pid", rank},
                    {"tid", kThread},
                    {"args", {{"name", "phases"}}}});
  for (const Span& span : spans_) {
    events.push_back({{"name", span.name},
                      {"cat", "phase"},
                      {"ph", "X"},
                      {"ts", microseconds(span.begin - origin_)},
                      {"dur", microseconds(span.end - span.begin)},
                      {"pid", rank},
                      {"tid", kThread},
                      {"args", {{"step", span.step}}}});
  }
  const std::string text = events.dump();
  return text.substr(1, text.size() - 2);
}

void Timeline::write(const std::filesystem::path& file) const {
  const std::vector<std::string> all = all_gather_text(communicator_, events(), "trace");
  if (communicator_.rank() != 0) return;
  std::string text = "{\"traceEvents\":[";
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (!all[rank].empty()) text += (rank > 0 ? ",\n" : "\n") + all[rank];
  }
  auto written = take(files::AtomicFile::create(files::posix_file_system(), file));
  check(written.append(text + "\n]}\n"));
  check(written.commit());
}

}  // namespace lockstep::train
