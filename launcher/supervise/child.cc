#include "lockstep/launcher/supervise/child.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

namespace lockstep::supervise {
namespace {

// As exec takes them.
std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (const std::string& text : texts) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

// This process's environment and what is added: of assignments to one name the last.
std::vector<std::string> environment_with(const std::vector<std::string>& added) {
  std::map<std::string, std::string> by_name;
  const auto add = [&](const std::string& assignment) {
    by_name[assignment.substr(0, assignment.find('='))] = assignment;
  };
  for (char** variable = environ; *variable != nullptr; ++variable) add(*variable);
  for (const std::string& assignment : added) add(assignment);
  std::vector<std::string> result;
  for (auto& [name, assignment] : by_name) result.push_back(std::move(assignment));
  return result;
}

// In the child, between fork and exec: another thread of the parent may have held any lock.
[[noreturn]] void become(const ChildOptions& options, char* const* arguments,
                         char* const* environment, int failure_end, pid_t parent) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != parent) ::_exit(1);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  // In a group of its own, it would be stopped when it reads from the terminal.
  if (::isatty(STDIN_FILENO) != 0) {
    const int nothing = ::open("/dev/null", O_RDONLY);
    ::dup2(nothing, STDIN_FILENO);
  }
  if (options.output >= 0) ::dup2(options.output, STDOUT_FILENO);
  if (options.error >= 0) ::dup2(options.error, STDERR_FILENO);
  ::execve(arguments[0], arguments, environment);
  const int error = errno;
  [[maybe_unused]] const ssize_t written = ::write(failure_end, &error, sizeof error);
  ::_exit(127);
}

// Every process and its parent.
std::multimap<pid_t, pid_t> children_by_parent() {
  std::multimap<pid_t, pid_t> children;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file(entry.path() / "stat");
    std::string text;
    std::getline(file, text);
    // "pid (name) state parent …": the name may hold anything, brackets included.
    const size_t bracket = text.rfind(") ");
    if (bracket == std::string::npos) continue;
    const pid_t parent = std::atoi(text.c_str() + bracket + 4);
    children.emplace(parent, std::atoi(name.c_str()));
  }
  return children;
}

}  // namespace

absl::StatusOr<pid_t> start_child(const ChildOptions& options) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return absl::InternalError(std::strerror(errno));
  const std::vector<std::string> environment = environment_with(options.environment);
  const std::vector<char*> arguments = pointers(options.words), variables = pointers(environment);
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child == 0) become(options, arguments.data(), variables.data(), ends[1], parent);
  const int fork_error = errno;
  ::close(ends[1]);
  int error = child < 0 ? fork_error : 0;
  if (child > 0 && ::read(ends[0], &error, sizeof error) != sizeof error) error = 0;
  ::close(ends[0]);
  if (error == 0) return child;
  return absl::InternalError("cannot start " + options.words[0] + ": " + std::strerror(error));
}

uint64_t raise_descriptor_limit(uint64_t count) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= count) return 0;
  const uint64_t before = limit.rlim_cur;
  set_descriptor_limit(std::min<uint64_t>(count, limit.rlim_max));
  return before;
}

void set_descriptor_limit(uint64_t soft) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = soft;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

void adopt_orphans() { ::prctl(PR_SET_CHILD_SUBREAPER, 1); }

bool has_seen_to(int signal, pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/status");
  uint64_t seen_to = 0;
  bool lives = false;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("State:")) lives = line.find_first_of("ZX") == std::string::npos;
    if (line.starts_with("SigBlk:") || line.starts_with("SigIgn:") || line.starts_with("SigCgt:")) {
      seen_to |= std::strtoull(line.c_str() + std::strlen("SigBlk:"), nullptr, 16);
    }
  }
  return !lives || (seen_to >> (signal - 1) & 1) != 0;
}

void kill_descendants(pid_t spare) {
  const auto children = children_by_parent();
  std::vector<pid_t> family = {::getpid()};
  for (size_t i = 0; i < family.size(); ++i) {
    const auto [begin, end] = children.equal_range(family[i]);
    for (auto child = begin; child != end; ++child) family.push_back(child->second);
  }
  for (size_t i = 1; i < family.size(); ++i) {
    if (family[i] != spare) ::kill(family[i], SIGKILL);
  }
}

}  // namespace lockstep::supervise
