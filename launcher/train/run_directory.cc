#include "lockstep/launcher/train/run_directory.h"

#include <chrono>
#include <ctime>

#include "lockstep/launcher/train/status.h"

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

void RunDirectory::set_aside_earlier_run() {
  if (!exists() || rank_ != 0) return;
  for (const std::filesystem::path& found : {checkpoints(), metrics()}) {
    if (!file_system_.exists(found)) continue;
    int number = 1;
    std::filesystem::path aside;
    do {
      aside = found.parent_path() /
              (found.stem().string() + "." + std::to_string(number++) + found.extension().string());
    } while (file_system_.exists(aside));
    check(file_system_.rename(found, aside));
  }
  check(file_system_.sync_directory(path_));
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
