#include "lockstep/launcher/supervise/output_queue.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace lockstep::supervise {
namespace {

// A terminal may take less than POLLOUT promises, and others may write to the same pipe: a
// descriptor that never blocks. It is not the stream's own, which other processes share.
int open_anew(int stream) {
  struct stat status {};
  if (::fstat(stream, &status) != 0) return stream;
  if (!S_ISFIFO(status.st_mode) && !S_ISCHR(status.st_mode)) return stream;
  const std::string path = "/proc/self/fd/" + std::to_string(stream);
  const int opened = ::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  return opened >= 0 ? opened : stream;
}

}  // namespace

OutputQueue::OutputQueue(int stream) : stream_(stream), descriptor_(open_anew(stream)) {}

OutputQueue::~OutputQueue() {
  if (descriptor_ != stream_) ::close(descriptor_);
}

void OutputQueue::add(std::string_view lines) {
  if (!broken_) text_ += lines;
}

// What a pipe takes in one piece or not at all, up to the end of a line where there is one.
std::string_view OutputQueue::next_piece() const {
  const std::string_view piece = std::string_view(text_).substr(written_, PIPE_BUF);
  const size_t end = piece.rfind('\n');
  return end == std::string_view::npos ? piece : piece.substr(0, end + 1);
}

bool OutputQueue::flush() {
  bool any = false;
  while (size() > 0) {
    pollfd ready{descriptor_, POLLOUT, 0};
    if (::poll(&ready, 1, 0) <= 0) break;
    const std::string_view piece = next_piece();
    const ssize_t count = ::write(descriptor_, piece.data(), piece.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) break;
    if (count < 0) {
      // A job must not die because nobody watches it any more.
      broken_ = true;
      clear();
      break;
    }
    any = true;
    written_ += static_cast<size_t>(count);
  }
  if (written_ >= text_.size() / 2) text_.erase(0, std::exchange(written_, 0));
  return any;
}

size_t OutputQueue::clear() {
  const size_t bytes = size();
  text_.clear();
  written_ = 0;
  return bytes;
}

}  // namespace lockstep::supervise
