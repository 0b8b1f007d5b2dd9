#include "lockstep/launcher/supervise/output_queue.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <limits.h>
#include <signal.h>
#include <unistd.h>

#include <string>

namespace lockstep::supervise {
namespace {

// Both ends of a pipe whose write end blocks, as a shell gives it.
struct Pipe {
  int ends[2] = {-1, -1};
  Pipe() { EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0); }
  ~Pipe() { close_reader(), ::close(ends[1]); }
  void close_reader() {
    if (ends[0] >= 0) ::close(ends[0]);
    ends[0] = -1;
  }
  std::string read() const {
    std::string bytes(size_t{1} << 20, '\0');
    bytes.resize(static_cast<size_t>(::read(ends[0], bytes.data(), bytes.size())));
    return bytes;
  }
};

std::string numbered_lines(int count) {
  std::string lines;
  for (int i = 0; i < count; ++i) lines += std::to_string(i) + std::string(i % 90, 'x') + "\n";
  return lines;
}

TEST(OutputQueue, WritesWhatAPipeTakesAndKeepsTheRest) {
  const Pipe pipe;
  OutputQueue queue(pipe.ends[1]);
  EXPECT_FALSE(queue.flush());
  const std::string lines = numbered_lines(10'000);
  queue.add(lines);
  std::string read;
  while (queue.flush()) {
    const std::string some = pipe.read();
    EXPECT_EQ(some.back(), '\n');  // never a part of a line
    read += some;
    EXPECT_EQ(queue.size(), lines.size() - read.size());
  }
  EXPECT_EQ(read, lines);
}

TEST(OutputQueue, ALineLongerThanAPipeTakesAtOnceArrives) {
  const Pipe pipe;
  OutputQueue queue(pipe.ends[1]);
  std::string lines(size_t{3} * PIPE_BUF, 'a');
  lines += "\nshort\n";
  queue.add(lines);
  EXPECT_TRUE(queue.flush());
  EXPECT_EQ(pipe.read(), lines);
}

TEST(OutputQueue, ForgetsWhatNobodyReadsAnyMore) {
  const auto before = ::signal(SIGPIPE, SIG_IGN);
  Pipe pipe;
  OutputQueue queue(pipe.ends[1]);
  pipe.close_reader();
  queue.add("line\n");
  EXPECT_FALSE(queue.flush());
  queue.add("line\n");
  EXPECT_EQ(queue.size(), 0u);
  ::signal(SIGPIPE, before);
}

TEST(OutputQueue, ClearSaysHowMuchWaited) {
  const Pipe pipe;
  OutputQueue queue(pipe.ends[1]);
  queue.add("one\ntwo\n");
  EXPECT_EQ(queue.clear(), 8u);
  EXPECT_EQ(queue.size(), 0u);
}

}  // namespace
}  // namespace lockstep::supervise
