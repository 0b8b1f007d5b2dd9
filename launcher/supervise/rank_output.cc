#include "lockstep/launcher/supervise/rank_output.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace lockstep::supervise {
namespace {

constexpr size_t kLongestLine = 65536;
constexpr size_t kQueueBytes = size_t{1} << 20;           // then ranks wait
constexpr size_t kStoppingQueueBytes = size_t{16} << 20;  // then lines are dropped

bool are_one_file(int a, int b) {
  struct stat one {
  }, other{};
  return ::fstat(a, &one) == 0 && ::fstat(b, &other) == 0 && one.st_dev == other.st_dev &&
         one.st_ino == other.st_ino;
}

}  // namespace

std::vector<std::string> LineSplitter::feed(std::string_view bytes) {
  std::vector<std::string> lines;
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    const size_t taken = end == std::string_view::npos ? bytes.size() : end + 1;
    pending_.append(bytes.substr(0, taken));
    bytes.remove_prefix(taken);
    if (pending_.size() >= kLongestLine && pending_.back() != '\n') pending_ += '\n';
    if (pending_.back() == '\n') lines.push_back(std::exchange(pending_, {}));
  }
  return lines;
}

std::optional<std::string> LineSplitter::finish() {
  if (pending_.empty()) return std::nullopt;
  return std::exchange(pending_, {}) + "\n";
}

RankOutput::RankOutput(const Options& options) : options_(options) {
  queues_.push_back(std::make_unique<OutputQueue>(STDOUT_FILENO));
  if (!are_one_file(STDOUT_FILENO, STDERR_FILENO)) {
    queues_.push_back(std::make_unique<OutputQueue>(STDERR_FILENO));
  }
  streams_[kOutput] = queues_.front().get();
  streams_[kError] = queues_.back().get();
}

absl::StatusOr<std::unique_ptr<RankOutput>> RankOutput::create(const Options& options) {
  std::unique_ptr<RankOutput> output(new RankOutput(options));
  if (const absl::Status status = output->open_pipes(); !status.ok()) return status;
  if (const absl::Status status = output->open_logs(); !status.ok()) return status;
  return output;
}

absl::Status RankOutput::open_pipes() {
  pipes_.resize(static_cast<size_t>(2 * options_.ranks));
  for (Pipe& pipe : pipes_) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) {
      return absl::ResourceExhaustedError(std::string("cannot make a pipe for each rank: ") +
                                          std::strerror(errno));
    }
    pipe.read_end = ends[0];
    pipe.write_end = ends[1];
    ::fcntl(pipe.read_end, F_SETFL, O_NONBLOCK);
  }
  return absl::OkStatus();
}

absl::Status RankOutput::open_logs() {
  if (options_.log_directory.empty()) return absl::OkStatus();
  files::FileSystem& file_system = files::posix_file_system();
  const absl::Status made = file_system.create_directories(options_.log_directory);
  if (!made.ok()) return made;
  for (int rank = 0; rank < options_.ranks; ++rank) {
    const auto path = options_.log_directory / ("rank-" + std::to_string(rank) + ".log");
    auto file = file_system.open(path, files::OpenMode::append);
    if (!file.ok()) return file.status();
    logs_.push_back(*std::move(file));
  }
  return absl::OkStatus();
}

RankOutput::~RankOutput() {
  for (const Pipe& pipe : pipes_) {
    if (pipe.read_end >= 0) ::close(pipe.read_end);
    if (pipe.write_end >= 0) ::close(pipe.write_end);
  }
}

bool RankOutput::is_read(size_t pipe) const {
  return never_wait_ || queue_of(pipe).size() < kQueueBytes;
}

std::vector<pollfd> RankOutput::awaited() const {
  std::vector<pollfd> ends;
  for (size_t i = 0; i < pipes_.size(); ++i) {
    if (is_read(i)) ends.push_back({pipes_[i].read_end, POLLIN, 0});
  }
  for (const auto& queue : queues_) {
    if (queue->size() > 0) ends.push_back({queue->descriptor(), POLLOUT, 0});
  }
  return ends;
}

void RankOutput::pass_on(size_t pipe, const std::vector<std::string>& lines) {
  if (lines.empty()) return;
  const size_t rank = pipe / 2;
  std::string text;
  std::string plain;
  for (const std::string& line : lines) {
    if (options_.prefix) text += "[" + std::to_string(rank) + "] ";
    text += line;
    plain += line;
  }
  if (never_wait_ && queue_of(pipe).size() >= kStoppingQueueBytes) {
    dropped_bytes_ += text.size();
  } else {
    queue_of(pipe).add(text);
  }
  if (rank >= logs_.size() || logs_[rank] == nullptr) return;
  if (const absl::Status status = logs_[rank]->append(plain); !status.ok()) {
    say("no log of rank " + std::to_string(rank) +
        " from here on: " + std::string(status.message()));
    logs_[rank].reset();
  }
}

bool RankOutput::pump() {
  char bytes[65536];
  bool any = false;
  for (size_t i = 0; i < pipes_.size(); ++i) {
    if (!is_read(i)) continue;
    const ssize_t size = ::read(pipes_[i].read_end, bytes, sizeof bytes);
    if (size <= 0) continue;
    any = true;
    pass_on(i, pipes_[i].lines.feed({bytes, static_cast<size_t>(size)}));
  }
  return any;
}

void RankOutput::end_lines() {
  for (size_t i = 0; i < pipes_.size(); ++i) {
    if (auto line = pipes_[i].lines.finish()) pass_on(i, {*line});
  }
}

void RankOutput::say(const std::string& line) {
  streams_[kError]->add("lockstep run: " + line + "\n");
  flush();
}

bool RankOutput::flush() {
  bool any = false;
  for (const auto& queue : queues_) any = queue->flush() || any;
  return any;
}

bool RankOutput::pending() const {
  return std::ranges::any_of(queues_, [](const auto& queue) { return queue->size() > 0; });
}

void RankOutput::drop_pending() {
  for (const auto& queue : queues_) dropped_bytes_ += queue->clear();
}

}  // namespace lockstep::supervise
