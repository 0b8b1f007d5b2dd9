#include "lockstep/launcher/supervise/rank_output.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace lockstep::supervise {
namespace {

constexpr size_t kLongestLine = 65536;

// False when nobody reads any more.
bool write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(descriptor, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<size_t>(written));
    } else if (errno == EAGAIN) {
      pollfd ready{descriptor, POLLOUT, 0};
      ::poll(&ready, 1, -1);
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
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

std::vector<int> RankOutput::read_ends() const {
  std::vector<int> ends;
  for (const Pipe& pipe : pipes_) ends.push_back(pipe.read_end);
  return ends;
}

void RankOutput::pass_on(size_t pipe, const std::vector<std::string>& lines) {
  if (lines.empty()) return;
  const size_t rank = pipe / 2;
  const Stream stream = pipe % 2 == 0 ? kOutput : kError;
  std::string text;
  std::string plain;
  for (const std::string& line : lines) {
    if (options_.prefix) text += "[" + std::to_string(rank) + "] ";
    text += line;
    plain += line;
  }
  // A job must not die because nobody watches it any more.
  if (!broken_[stream]) broken_[stream] = !write_all(stream + 1, text);
  if (rank >= logs_.size() || logs_[rank] == nullptr) return;
  if (const absl::Status status = logs_[rank]->append(plain); !status.ok()) {
    const std::string message(status.message());
    write_all(STDERR_FILENO, "lockstep run: no log of rank " + std::to_string(rank) +
                                 " from here on: " + message + "\n");
    logs_[rank].reset();
  }
}

bool RankOutput::pump() {
  char bytes[65536];
  bool any = false;
  for (size_t i = 0; i < pipes_.size(); ++i) {
    const ssize_t size = ::read(pipes_[i].read_end, bytes, sizeof bytes);
    if (size <= 0) continue;
    any = true;
    pass_on(i, pipes_[i].lines.feed({bytes, static_cast<size_t>(size)}));
  }
  return any;
}

void RankOutput::finish() {
  while (pump()) {
  }
  for (size_t i = 0; i < pipes_.size(); ++i) {
    if (auto line = pipes_[i].lines.finish()) pass_on(i, {*line});
  }
}

}  // namespace lockstep::supervise
