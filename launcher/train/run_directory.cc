#include "lockstep/launcher/train/run_directory.h"

#include <chrono>
#include <ctime>

#include "lockstep/launcher/train/status.h"
#include "lockstep/runtime/files/checkpoint.h"

namespace lockstep::train {

void RunDirectory::open() {
  if (!exists() || rank_ != 0) return;
  check(file_system_.create_directories(path_));
  auto lock = file_system_.lock(path_ / ".lock");
  if (absl::IsAlreadyExists(lock.status())) {
    fail_usage({"--run-dir ", path_.string(),
                " is in use by a live run: ", std::string(lock.status().message())});
  }
  lock_ = take(std::move(lock));
}

// ".1", or the first number after it that no earlier run has.
std::string RunDirectory::unused_suffix() const {
  for (int number = 1;; ++number) {
    const std::string suffix = "." + std::to_string(number);
    if (!file_system_.exists(path_ / ("checkpoints" + suffix)) &&
        !file_system_.exists(path_ / ("metrics" + suffix + ".jsonl"))) {
      return suffix;
    }
  }
}

void RunDirectory::set_aside_earlier_run() {
  if (!exists() || rank_ != 0) return;
  const std::string suffix = unused_suffix();
  if (file_system_.exists(checkpoints())) {
    check(file_system_.rename(checkpoints(), path_ / ("checkpoints" + suffix)));
  }
  if (file_system_.exists(metrics())) {
    check(file_system_.rename(metrics(), path_ / ("metrics" + suffix + ".jsonl")));
  }
  check(file_system_.sync_directory(path_));
}

void RunDirectory::set_aside_checkpoints_after(int64_t step) {
  if (!exists() || rank_ != 0) return;
  std::filesystem::path aside;
  for (const files::CheckpointInfo& found : take(files::list_checkpoints(checkpoints()))) {
    if (found.step <= step) continue;
    if (aside.empty()) aside = path_ / ("checkpoints" + unused_suffix());
    check(file_system_.create_directories(aside));
    check(file_system_.rename(found.directory, aside / found.directory.filename()));
  }
  if (!aside.empty()) check(file_system_.sync_directory(checkpoints()));
}

void RunDirectory::write_config(std::string_view json) {
  if (!exists() || rank_ != 0) return;
  check(files::write_file_atomically(file_system_, path_ / "config.json", json));
}

void RunDirectory::log(std::string_view line) {
  if (!exists()) return;
  if (!log_) {
    const std::filesystem::path folder = path_ / "log";
    check(file_system_.create_directories(folder));
    log_ = take(file_system_.open(folder / ("rank-" + std::to_string(rank_) + ".log"),
                                  files::OpenMode::append));
  }
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm utc;
  gmtime_r(&now, &utc);
  char stamp[32];
  std::strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%SZ ", &utc);
  check(log_->append(std::string(stamp) + std::string(line) + "\n"));
}

}  // namespace lockstep::train
