#include "lockstep/collectives/watch/watch.h"

#include <algorithm>
#include <charconv>
#include <vector>

#include "lockstep/collectives/flight_recorder.h"
#include "lockstep/collectives/work_state.h"
#include "lockstep/runtime/error.h"

namespace lockstep {
namespace {

constexpr const char* kVerdict = "watch/verdict";
constexpr std::string_view kBeats = "watch/beat/";
constexpr std::string_view kGone = "gone ";  // the store's own verdict, with the rank
constexpr Watch::Milliseconds kListenFor{3600 * 1000};

std::string key_of(int rank) { return concat({kBeats, rank}); }

double seconds_since(std::chrono::steady_clock::time_point time) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - time).count();
}

// The number after a prefix; -1 where there is none.
int number_after(std::string_view prefix, std::string_view text) {
  int number = -1;
  if (text.substr(0, prefix.size()) != prefix) return number;
  std::from_chars(text.data() + prefix.size(), text.data() + text.size(), number);
  return number;
}

}  // namespace

Watch::Watch(Communicator& communicator, const std::function<std::unique_ptr<Store>()>& connect,
             Options options)
    : communicator_(communicator),
      options_(std::move(options)),
      handle_(std::make_shared<Handle>()),
      beats_(connect()),
      verdicts_(connect()) {
  const absl::Status status = beats_->set_will(kVerdict, concat({kGone, communicator.rank()}));
  LOCKSTEP_CHECK(status.ok(), "watch: ", std::string(status.message()));
  handle_->watch = this;
  communicator_.set_late_handler([handle = handle_](const WorkState& work) {
    const std::lock_guard lock(handle->mutex);
    return handle->watch == nullptr ? std::optional<std::string>("") : handle->watch->judge(work);
  });
  beater_ = std::thread([this] { beat_loop(); });
  listener_ = std::thread([this] { listen_loop(); });
}

Watch::~Watch() {
  communicator_.set_late_handler({});
  {
    const std::lock_guard lock(handle_->mutex);
    handle_->watch = nullptr;
  }
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }
  beats_->leave().IgnoreError();
  beats_->close();
  verdicts_->close();
  beater_.join();
  listener_.join();
}

void Watch::set_step(int64_t step) {
  const std::lock_guard lock(mutex_);
  step_ = step;
}

Watch::Phase::Phase(Watch* watch, std::string_view name, Milliseconds allowance)
    : watch_(watch), name_(name), began_(Clock::now()), allowance_(allowance) {
  if (watch_ == nullptr) return;
  const std::lock_guard lock(watch_->mutex_);
  outer_ = std::exchange(watch_->phase_, this);
}

Watch::Phase::~Phase() {
  if (watch_ == nullptr) return;
  const std::lock_guard lock(watch_->mutex_);
  watch_->phase_ = outer_;
  if (allowance_ > allowance_.zero()) {
    watch_->not_late_before_ = Clock::now() + watch_->communicator_.timeout();
  }
  if (outer_ == nullptr) watch_->idle_since_ = Clock::now();
}

std::optional<std::string> Watch::verdict() const {
  const std::lock_guard lock(mutex_);
  return verdict_;
}

Beat Watch::current_beat() {
  Beat beat;
  {
    const std::lock_guard lock(mutex_);
    beat.count = ++beat_count_;
    beat.step = step_;
    beat.phase = phase_ != nullptr ? phase_->name_ : "idle";
    beat.phase_seconds = seconds_since(phase_ != nullptr ? phase_->began_ : idle_since_);
    beat.allowed_seconds = std::max(0.0, -seconds_since(not_late_before_));
    for (const Phase* phase = phase_; phase != nullptr; phase = phase->outer_) {
      const double allowed = std::chrono::duration<double>(phase->allowance_).count();
      beat.allowed_seconds = std::max(beat.allowed_seconds, allowed - seconds_since(phase->began_));
    }
  }
  if (const auto last = communicator_.recorder()->last(communicator_.name())) {
    beat.sequence = last->sequence;
    beat.collective = last->signature;
    if (!last->what.empty()) beat.collective += concat({" \"", last->what, "\""});
    if (last->bucket >= 0) beat.collective += concat({", bucket ", last->bucket});
    beat.state = !last->error.empty() ? "failed"
                 : last->ended        ? "done"
                 : last->begun        ? "running"
                                      : "queued";
    const auto since = last->ended ? *last->ended : last->begun ? *last->begun : last->queued;
    beat.collective_seconds = seconds_since(since);
  }
  return beat;
}

// True when the watch ends meanwhile.
bool Watch::pause(Milliseconds duration) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, duration, [&] { return ending_; });
}

void Watch::beat_loop() {
  do {
    const absl::Status status = beats_->set(key_of(communicator_.rank()), current_beat().to_text());
    if (!status.ok()) return lose_store(status);
  } while (!pause(options_.beat_every));
}

void Watch::listen_loop() {
  for (;;) {
    const auto text = verdicts_->get(kVerdict, kListenFor);
    if (absl::IsDeadlineExceeded(text.status())) continue;
    if (!text.ok()) return lose_store(text.status());
    const int gone = number_after(kGone, *text);
    if (gone < 0) return conclude(*text);
    const auto beats = read_beats();
    const std::string seen = beats.ok() ? describe(gone, *beats) : concat({"rank ", gone});
    return conclude(concat({seen, ". It is gone: its connection closed without a word"}));
  }
}

void Watch::lose_store(const absl::Status& status) {
  if (absl::IsCancelled(status)) return;  // closed here
  conclude(without_store(status));
}

std::string Watch::without_store(const absl::Status& status) const {
  return concat({options_.store_host, ", which hosts the job's store, is gone or stopped (",
                 std::string(status.message()), ")"});
}

// The first call counts. Everybody who waits in a collective gets the report at once.
void Watch::conclude(const std::string& report) {
  {
    const std::lock_guard lock(mutex_);
    if (ending_ || verdict_) return;
    verdict_ = report;
  }
  communicator_.abort(report);
  if (!options_.end_process || pause(options_.end_after)) return;
  options_.end_process(report);
}

std::string Watch::settle(const std::string& report) {
  const auto there = beats_->set_once(kVerdict, report);
  return there.ok() && number_after(kGone, *there) < 0 ? *there : report;
}

void Watch::fail(std::string_view reason) {
  Beat beat = current_beat();
  beats_
      ->set_once(kVerdict, concat({"rank ", communicator_.rank(), " has failed in step ", beat.step,
                                   ", phase ", beat.phase, ": ", reason}))
      .status()
      .IgnoreError();
}

absl::StatusOr<Watch::Beats> Watch::read_beats() {
  const auto texts = beats_->list(kBeats);
  if (!texts.ok()) return texts.status();
  Beats beats;
  for (const auto& [key, text] : *texts) {
    if (const auto beat = Beat::parse(text)) beats.emplace(number_after(kBeats, key), *beat);
  }
  return beats;
}

std::string Watch::describe(int rank, const Beats& beats) const {
  const auto found = beats.find(rank);
  if (found == beats.end()) return concat({"rank ", rank, " has never been heard of"});
  return concat({"rank ", rank, " is ", found->second.describe()});
}

// Two looks at the beats, far enough apart that every rank which lives has sent another one.
std::optional<std::string> Watch::judge(const WorkState& work) {
  if (const auto known = verdict()) return known;
  const auto before = read_beats();
  if (!before.ok()) return verdict().value_or(without_store(before.status()));
  if (pause(3 * options_.beat_every)) return std::string();
  const auto after = read_beats();
  if (const auto known = verdict()) return known;
  if (!after.ok()) return without_store(after.status());
  // Who was late has come meanwhile.
  if (work.done() || Clock::now() < work.transport->last_progress() + work.timeout) {
    return std::nullopt;
  }

  std::vector<int> silent, behind;
  bool allowed = false;
  uint64_t least = work.sequence;
  for (int rank = 0; rank < communicator_.size(); ++rank) {
    const auto now = after->find(rank), then = before->find(rank);
    if (rank == communicator_.rank()) continue;
    if (now == after->end() || (then != before->end() && then->second.count == now->second.count)) {
      silent.push_back(rank);
      continue;
    }
    const bool same = work.communicator == communicator_.name();
    if (same && now->second.sequence >= work.sequence) continue;
    allowed |= now->second.allowed_seconds > 0;
    if (!same || now->second.sequence > least) continue;
    if (now->second.sequence < least) behind.clear();
    least = now->second.sequence;
    behind.push_back(rank);
  }
  if (silent.empty() && allowed) return std::nullopt;
  const std::vector<int>& culprits = silent.empty() ? behind : silent;
  std::string report;
  for (int rank : culprits) report += (report.empty() ? "" : "; ") + describe(rank, *after);
  if (!silent.empty()) {
    report += ". It no longer answers: it is stopped, or its machine is";
  } else if (culprits.empty()) {
    report = "every rank answers and none is behind: the network between them is";
  } else {
    report += ". It answers, but is late";
  }
  return settle(concat({report, ". Rank ", communicator_.rank(), " waited in ", work.describe(),
                        " for ", work.timeout.count(), " ms"}));
}

}  // namespace lockstep
