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
constexpr int kDeviceThread = 1001;

double microseconds(Timeline::Clock::duration duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

}  // namespace

Timeline::Timeline(Communicator& communicator) : communicator_(communicator) {
  communicator_.barrier({.what = "start of the trace"}).wait();
  origin_ = Clock::now();
}

void Timeline::add(std::string_view name, int64_t step, Clock::time_point begin,
                   Clock::time_point end, bool of_device) {
  if (spans_.size() == kMostSpans) spans_.pop_front();
  spans_.push_back({std::string(name), step, begin, end, of_device});
}

// The members of an array of events, without its brackets.
std::string Timeline::events() const {
  const int rank = communicator_.rank();
  if (rank >= kMostRanks) return "";
  Json events =
      Json::parse(communicator_.recorder()->to_chrome_trace(rank, origin_)).at("traceEvents");
  const auto name_thread = [&](int thread, std::string_view name) {
    events.push_back({{"name", "thread_name"},
                      {"ph", "M"},
                      {"pid", rank},
                      {"tid", thread},
                      {"args", {{"name", name}}}});
  };
  name_thread(kThread, "phases");
  if (communicator_.device() != Device()) {
    name_thread(kDeviceThread, communicator_.device().to_string());
  }
  for (const Span& span : spans_) {
    events.push_back({{"name", span.name},
                      {"cat", span.of_device ? "device" : "phase"},
                      {"ph", "X"},
                      {"ts", microseconds(span.begin - origin_)},
                      {"dur", microseconds(span.end - span.begin)},
                      {"pid", rank},
                      {"tid", span.of_device ? kDeviceThread : kThread},
                      {"args", {{"step", span.step}}}});
  }
  const std::string text = events.dump();
  return text.substr(1, text.size() - 2);
}

void Timeline::check_file(const std::filesystem::path& file) {
  files::FileSystem& system = files::posix_file_system();
  if (file.has_parent_path()) check(system.create_directories(file.parent_path()));
  take(files::AtomicFile::create(system, file));
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

void DeviceTimes::collect(StepTimes& times, Timeline* timeline) {
  // The device has nothing to do: it is here now.
  const std::unique_ptr<Mark> here = timeline != nullptr ? mark() : nullptr;
  if (here) backend_.synchronize();
  const Timeline::Clock::time_point now = Timeline::Clock::now();
  const auto host_time = [&](const Mark& place) {
    return now - std::chrono::duration_cast<Timeline::Clock::duration>(
                     std::chrono::duration<double>(backend_.seconds_between(place, *here)));
  };
  while (!spans_.empty() && backend_.is_reached(*spans_.front().end)) {
    const Span& span = spans_.front();
    times.*span.seconds += backend_.seconds_between(*span.begin, *span.end);
    if (here) {
      timeline->add(span.name, span.step, host_time(*span.begin), host_time(*span.end), true);
    }
    spans_.pop_front();
  }
}

Phase::Phase(Activity& activity, std::string_view name, const Options& options)
    : name_(name),
      options_(options),
      step_(activity.now().step),
      mark_(options.device != nullptr ? options.device->mark() : nullptr),
      phase_(activity, name, options.allowance) {}

Phase::~Phase() {
  const Timeline::Clock::time_point end = Timeline::Clock::now();
  if (options_.timeline != nullptr) options_.timeline->add(name_, step_, begin_, end);
  if (mark_) {
    end_on_device();
  } else if (options_.seconds != nullptr) {
    options_.times->*options_.seconds += std::chrono::duration<double>(end - begin_).count();
  }
}

// A device that has failed says so to the next call that may throw.
void Phase::end_on_device() noexcept {
  if (std::uncaught_exceptions() > exceptions_) return;
  try {
    std::unique_ptr<Mark> behind = options_.device->mark();
    if (!behind) return;
    options_.device->add(
        {std::string(name_), step_, options_.seconds, std::move(mark_), std::move(behind)});
  } catch (const std::exception&) {
    // The phase is not timed.
  }
}

}  // namespace lockstep::train
