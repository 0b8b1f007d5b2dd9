#include "lockstep/launcher/supervise/rank_main.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "lockstep/launcher/supervise/child.h"
#include "lockstep/launcher/supervise/rank_output.h"

namespace lockstep::supervise {
namespace {

int failed(const std::string& what) {
  std::fprintf(stderr, "lockstep run: %s: %s\n", what.c_str(), std::strerror(errno));
  return 1;
}

// A pipe of another process of this user, opened anew.
int open_pipe_of(const std::string& process, const std::string& descriptor) {
  return ::open(("/proc/" + process + "/fd/" + descriptor).c_str(), O_WRONLY | O_CLOEXEC);
}

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> items(1);
  for (const char letter : list) {
    if (letter == ',') {
      items.emplace_back();
    } else {
      items.back() += letter;
    }
  }
  return items;
}

}  // namespace

std::vector<std::string> rank_words(const RankOutput& output, int ranks, int started_end,
                                    uint64_t descriptor_limit) {
  std::string ends;
  for (int rank = 0; rank < ranks; ++rank) {
    for (const auto stream : {RankOutput::kOutput, RankOutput::kError}) {
      ends += (ends.empty() ? "" : ",") + std::to_string(output.write_end(rank, stream));
    }
  }
  return {std::filesystem::read_symlink("/proc/self/exe").string(),
          kRankCommand,
          std::to_string(::getpid()),
          ends,
          std::to_string(started_end),
          std::to_string(descriptor_limit)};
}

int rank_main(std::span<const std::string> words) {
  const char* rank_text = std::getenv("OMPI_COMM_WORLD_RANK");
  if (words.size() < 5 || rank_text == nullptr) {
    std::fprintf(stderr, "lockstep: %s is for `lockstep run` alone\n", kRankCommand);
    return 2;
  }
  const std::string& supervisor = words[0];
  const std::vector<std::string> ends = split(words[1]);
  const size_t rank = std::strtoul(rank_text, nullptr, 10);
  if (2 * rank + 1 >= ends.size()) return failed("rank " + std::to_string(rank) + " has no pipe");

  const int started = open_pipe_of(supervisor, words[2]);
  const int output = open_pipe_of(supervisor, ends[2 * rank]);
  const int error = open_pipe_of(supervisor, ends[2 * rank + 1]);
  if (started < 0 || output < 0 || error < 0) return failed("the pipes of `lockstep run`");
  const pid_t process = ::getpid();
  if (::write(started, &process, sizeof process) != sizeof process)
    return failed("the pipes of `lockstep run`");
  std::vector<char*> arguments;
  for (const std::string& word : words.subspan(4)) {
    arguments.push_back(const_cast<char*>(word.c_str()));
  }
  arguments.push_back(nullptr);
  // mpirun takes a rank with both of its pipes closed for one that has ended, and no longer passes
  // standard input on: one stays open behind the program's back.
  if (::dup(STDERR_FILENO) < 0) return failed("the pipes of mpirun");
  const uint64_t descriptors = std::strtoull(words[3].c_str(), nullptr, 10);
  if (descriptors != 0) set_descriptor_limit(descriptors);
  ::dup2(output, STDOUT_FILENO);
  ::dup2(error, STDERR_FILENO);
  ::execv(arguments[0], arguments.data());
  return failed("cannot start " + words[4]);
}

}  // namespace lockstep::supervise
