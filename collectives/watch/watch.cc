#include "lockstep/collectives/watch/watch.h"

#include <algorithm>
#include <charconv>
#include <vector>

#include "lockstep/collectives/activity.h"
#include "lockstep/collectives/flight_recorder.h"
#include "lockstep/collectives/work_state.h"
#include "lockstep/runtime/error.h"

namespace lockstep {
namespace {

// After the name of the job.
constexpr std::string_view kVerdict = "/verdict";
constexpr std::string_view kBeats = "/beat/";
constexpr std::string_view kGone = "gone ";  // the store's own verdict, with the rank
constexpr Watch::Milliseconds kListenFor{3600 * 1000};

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

// Of those that count, the ranks with the least of a beat's numbers, which is at most `most`.
std::vector<int> least_far(const std::map<int, Beat>& beats, uint64_t most, uint64_t Beat::*number,
                           const std::function<bool(int rank, const Beat& beat)>& counts) {
  std::vector<int> ranks;
  uint64_t least = most;
  for (const auto& [rank, beat] : beats) {
    if (!counts(rank, beat) || beat.*number > least) continue;
    if (beat.*number < least) ranks.clear();
    least = beat.*number;
    ranks.push_back(rank);
  }
  return ranks;
}

}  // namespace

Watch::Watch(Communicator& communicator, const std::function<std::unique_ptr<Store>()>& connect,
             Options options)
    : communicator_(communicator),
      options_(std::move(options)),
      verdict_key_(concat({options_.job, kVerdict})),
      handle_(std::make_shared<Handle>()),
      beats_(connect()),
      verdicts_(connect()) {
  const absl::Status status = beats_->set_will(verdict_key_, concat({kGone, communicator.rank()}));
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
    const std::lock_guard lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }
  beats_->leave().IgnoreError();
  beats_->close();
  verdicts_->close();
  {
    const std::lock_guard lock(handle_->mutex);
    handle_->watch = nullptr;
  }
  beater_.join();
  listener_.join();
}

std::optional<std::string> Watch::verdict() const {
  const std::lock_guard lock(mutex_);
  return verdict_;
}

Beat Watch::current_beat() {
  const Activity& activity = communicator_.activity();
  const Activity::Moment now = activity.now();
  Beat beat{.step = now.step, .phase = now.phase, .phase_seconds = seconds_since(now.since)};
  beat.allowed_seconds =
      std::chrono::duration<double>(activity.allowance(communicator_.timeout())).count();
  {
    const std::lock_guard lock(mutex_);
    beat.count = ++beat_count_;
  }
  if (const auto last = communicator_.recorder()->last(communicator_.name())) {
    beat.sequence = last->sequence;
    beat.collective = last->call();
    beat.state = !last->error.empty() ? "failed"
                 : last->ended        ? "done"
                 : last->begun        ? "running"
                                      : "queued";
    const auto since = last->ended ? *last->ended : last->begun ? *last->begun : last->queued;
    beat.collective_seconds = seconds_since(since);
  }
  if (const auto begun = communicator_.recorder()->last_begun(communicator_.name())) {
    beat.begun = begun->sequence;
  }
  return beat;
}

// True when the watch ends meanwhile, or the verdict falls where that is waited for.
bool Watch::pause(Milliseconds duration, bool for_verdict) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, duration, [&] { return ending_ || (for_verdict && verdict_); });
}

void Watch::beat_loop() {
  const Activity& activity = communicator_.activity();
  uint64_t told = activity.changes();
  Clock::time_point due = Clock::now();
  do {
    absl::Status status;
    if (Clock::now() >= due || activity.changes() != told) {
      told = activity.changes();
      due = Clock::now() + options_.beat_every;
      status = beats_->set(beat_key(communicator_.rank()), current_beat().to_text());
    }
    if (status.ok() && options_.store_host) status = hear_host();
    if (!status.ok()) return lose_store(status);
  } while (!pause(std::min(options_.tell_changes_every, options_.beat_every)));
}

std::string Watch::beat_key(int rank) const { return concat({options_.job, kBeats, rank}); }

// Who hosts the store cannot be asked for once it is gone: what it did last must be known before.
absl::Status Watch::hear_host() {
  const auto text = beats_->get(beat_key(*options_.store_host), Milliseconds(0));
  if (absl::IsDeadlineExceeded(text.status())) return absl::OkStatus();  // has not begun yet
  if (!text.ok()) return text.status();
  const std::lock_guard lock(mutex_);
  if (const auto beat = Beat::parse(*text)) host_beat_[*options_.store_host] = *beat;
  return absl::OkStatus();
}

void Watch::listen_loop() {
  for (;;) {
    const auto text = verdicts_->get(verdict_key_, kListenFor);
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
  const std::string reason(status.message());
  if (!options_.store_host) {
    return concat({"the launcher, which hosts the job's store, is gone or stopped (", reason, ")"});
  }
  const std::lock_guard lock(mutex_);
  return concat({describe(*options_.store_host, host_beat_),
                 ". It hosts the job's store and is gone or stopped (", reason, ")"});
}

// The first call counts. Everybody who waits in a collective gets the report at once.
void Watch::conclude(const std::string& report) {
  {
    const std::lock_guard lock(mutex_);
    if (ending_ || verdict_) return;
    verdict_ = report;
    changed_.notify_all();
  }
  communicator_.abort(report);
  if (!options_.end_process || pause(options_.end_after)) return;
  options_.end_process(report);
}

// The verdict of this rank, or that of another which came first. Nothing where a rank is gone: the
// listener says so.
std::optional<std::string> Watch::settle(const WorkState& work, const std::string& finding) {
  const std::string report = concat({finding, ". Rank ", communicator_.rank(), " waited in ",
                                     work.describe(), " for ", work.timeout.count(), " ms"});
  const auto there = beats_->set_once(verdict_key_, report);
  if (!there.ok()) return without_store(there.status());
  if (number_after(kGone, *there) >= 0) return std::nullopt;
  return *there;
}

void Watch::fail(const std::string& reason) {
  beats_->set_once(verdict_key_, reason).status().IgnoreError();
}

absl::StatusOr<Watch::Beats> Watch::read_beats() {
  const std::string prefix = concat({options_.job, kBeats});
  const auto texts = beats_->list(prefix);
  if (!texts.ok()) return texts.status();
  Beats beats;
  for (const auto& [key, text] : *texts) {
    if (const auto beat = Beat::parse(text)) beats.emplace(number_after(prefix, key), *beat);
  }
  return beats;
}

std::string Watch::describe(int rank, const Beats& beats) const {
  const auto found = beats.find(rank);
  if (found == beats.end()) return concat({"rank ", rank, " has never been heard of"});
  return concat({"rank ", rank, " is ", found->second.describe()});
}

std::string Watch::describe(const std::vector<int>& ranks, const Beats& beats) const {
  std::string text;
  for (int rank : ranks) text += (text.empty() ? "" : "; ") + describe(rank, beats);
  return text;
}

std::vector<int> Watch::silent_ranks(const Beats& before, const Beats& now) const {
  std::vector<int> silent;
  for (int rank = 0; rank < communicator_.size(); ++rank) {
    const auto then = before.find(rank), last = now.find(rank);
    const bool heard =
        last != now.end() && (then == before.end() || then->second.count != last->second.count);
    if (!heard && rank != communicator_.rank()) silent.push_back(rank);
  }
  return silent;
}

// Looks at the beats are so far apart that every rank which lives has sent another one. Who seems
// to be silent gets as long again: its machine may have stood still for a moment.
std::optional<std::string> Watch::judge(const WorkState& work) {
  const bool compares = compares_calls(work);
  if (compares) tell_calls(work);
  const auto before = read_beats();
  auto now = before;
  std::vector<int> silent;
  for (int look = 0; now.ok() && look < 2 && (look == 0 || !silent.empty()); ++look) {
    if (pause(kBeatsToJudge / 2 * options_.beat_every, /*for_verdict=*/true)) break;
    now = read_beats();
    if (now.ok()) silent = silent_ranks(*before, *now);
  }
  {
    const std::lock_guard lock(mutex_);
    if (ending_) return "";
    if (verdict_) return verdict_;
  }
  if (!now.ok()) return without_store(now.status());
  // Who was late has come meanwhile.
  if (work.done() || Clock::now() < work.transport->last_progress() + work.timeout) {
    return std::nullopt;
  }
  if (!silent.empty()) {
    return settle(
        work, describe(silent, *now) + ". It no longer answers: it is stopped, or its machine is");
  }
  if (compares) {
    const std::string difference = different_calls(*now);
    if (!difference.empty()) return settle(work, difference);
  }
  if (is_allowed(work, *now)) return std::nullopt;
  if (work.communicator != communicator_.name()) {
    return settle(
        work, "every rank answers; which one is late in " + work.communicator + " is not known");
  }
  const std::vector<int> behind = most_behind(work, *now);
  const std::vector<int> stuck = behind.empty() ? furthest_back(work, *now) : std::vector<int>();
  if (!stuck.empty()) {
    return settle(work, describe(stuck, *now) + ". It answers, but its device is late");
  }
  if (behind.empty()) {
    return settle(work, "every rank answers and none is behind: the network between them is");
  }
  return settle(work, describe(behind, *now) + ". It answers, but is late");
}

bool Watch::is_behind(const WorkState& work, int rank, const Beat& beat) const {
  if (rank == communicator_.rank()) return false;
  return work.communicator != communicator_.name() || beat.sequence < work.sequence;
}

// Whether its device has not come as far as this rank's, whose host it has kept up with.
bool Watch::is_stuck(const WorkState& work, int rank, const Beat& beat) const {
  return communicator_.device() != Device() && rank != communicator_.rank() &&
         work.communicator == communicator_.name() && work.progress().begun &&
         beat.begun < work.sequence;
}

// Whether one whom this may be waiting for has announced that it takes long.
bool Watch::is_allowed(const WorkState& work, const Beats& beats) const {
  return std::any_of(beats.begin(), beats.end(), [&](const auto& of) {
    const auto& [rank, beat] = of;
    return beat.allowed_seconds > 0 && (is_behind(work, rank, beat) || is_stuck(work, rank, beat));
  });
}

// Those who have come least far.
std::vector<int> Watch::most_behind(const WorkState& work, const Beats& beats) const {
  return least_far(beats, work.sequence, &Beat::sequence,
                   [&](int rank, const Beat& beat) { return is_behind(work, rank, beat); });
}

// Those whose devices have.
std::vector<int> Watch::furthest_back(const WorkState& work, const Beats& beats) const {
  return least_far(beats, work.sequence, &Beat::begun,
                   [&](int rank, const Beat& beat) { return is_stuck(work, rank, beat); });
}

}  // namespace lockstep
