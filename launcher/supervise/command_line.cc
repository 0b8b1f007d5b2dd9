#include "lockstep/launcher/supervise/command_line.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <set>
#include <utility>

namespace lockstep::supervise {
namespace {

namespace fs = std::filesystem;

bool executable(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error) && ::access(path.c_str(), X_OK) == 0;
}

std::vector<fs::path> search_path() {
  const char* variable = std::getenv("PATH");
  std::string_view rest = variable != nullptr ? variable : "/usr/bin:/bin";
  std::vector<fs::path> folders;
  while (true) {
    const size_t colon = rest.find(':');
    folders.emplace_back(rest.substr(0, colon));
    if (colon == std::string_view::npos) return folders;
    rest.remove_prefix(colon + 1);
  }
}

// What is wrong with a program given by its path.
absl::Status path_problem(const std::string& name) {
  std::error_code error;
  if (!fs::exists(name, error)) return absl::NotFoundError(name + " does not exist");
  if (fs::is_directory(name, error)) {
    return absl::PermissionDeniedError(name + " is a directory, expected a program");
  }
  return absl::PermissionDeniedError(name + " is not executable (chmod +x makes it so)");
}

int topology_number(int cpu, const char* name) {
  std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/" + name);
  int number = -1;
  file >> number;
  return file ? number : -1;
}

}  // namespace

absl::StatusOr<fs::path> find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) {
    if (executable(name)) return fs::path(name);
    return path_problem(name);
  }
  for (const fs::path& folder : search_path()) {
    if (executable(folder / name)) return folder / name;
  }
  std::string problem = name + " is not a program on PATH";
  if (!name.empty() && executable("./" + name)) problem += "; did you mean ./" + name + "?";
  return absl::NotFoundError(problem);
}

std::string quoted(std::span<const std::string> words) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=:,+@%^";
  std::string line;
  for (const std::string& word : words) {
    if (!line.empty()) line += ' ';
    if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) {
      line += word;
      continue;
    }
    line += '\'';
    for (const char letter : word) line += letter == '\'' ? "'\\''" : std::string(1, letter);
    line += '\'';
  }
  return line;
}

int available_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  std::set<std::pair<int, int>> cores;
  int unknown = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &set)) continue;
    const int core = topology_number(cpu, "core_id");
    if (core < 0) ++unknown;
    if (core >= 0) cores.emplace(topology_number(cpu, "physical_package_id"), core);
  }
  return std::max(1, static_cast<int>(cores.size()) + unknown);
}

absl::StatusOr<std::vector<std::string>> mpirun_words(const RankLayout& layout) {
  const auto mpirun = find_program("mpirun");
  if (!mpirun.ok()) {
    return absl::NotFoundError(
        "mpirun is not on PATH; install Open MPI (Debian: apt-get install openmpi-bin)");
  }
  std::vector<std::string> words = {mpirun->string(), "-q"};
  if (::geteuid() == 0) words.push_back("--allow-run-as-root");
  if (layout.bind_to_cores) {
    const int each = available_cores() / layout.ranks;
    if (each == 0) {
      return absl::InvalidArgumentError("--bind cores: " + std::to_string(layout.ranks) +
                                        " ranks cannot be bound to " +
                                        std::to_string(available_cores()) + " cores, one each");
    }
    const std::string mapping = "slot:PE=" + std::to_string(each);
    words.insert(words.end(), {"--map-by", mapping, "--bind-to", "core"});
  } else {
    // Without it, mpirun would count cores, not threads, and refuse more ranks than those.
    words.insert(words.end(), {"--oversubscribe", "--bind-to", "none"});
  }
  words.insert(words.end(), {"-n", std::to_string(layout.ranks)});
  return words;
}

}  // namespace lockstep::supervise
