#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <string>

#include "lockstep/runtime/parallel.h"

namespace lockstep {

namespace {

int affinity_count() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

// The CPUs a quota amounts to, rounded up; 0: none. Version 2 writes "max 100000" or "150000
// 100000" into one file, version 1 has two files and -1 for no quota.
int64_t quota_in(const std::string& quota_path, const std::string& period_path) {
  std::ifstream file(quota_path);
  int64_t quota = 0;
  int64_t period = 0;
  if (!(file >> quota) || quota <= 0) return 0;
  if (period_path.empty()) {
    file >> period;
  } else {
    std::ifstream(period_path) >> period;
  }
  return period > 0 ? (quota + period - 1) / period : 0;
}

// The smallest quota from a group up to the root.
int64_t quota_upwards(const std::string& root, std::string group, const char* quota,
                      const char* period) {
  int64_t smallest = 0;
  while (true) {
    const std::string folder = root + group + "/";
    const int64_t here = quota_in(folder + quota, *period == '\0' ? "" : folder + period);
    if (here > 0 && (smallest == 0 || here < smallest)) smallest = here;
    if (group.empty()) return smallest;
    group.erase(group.find_last_of('/'));
  }
}

// This process's groups: lines "id:controllers:path", with empty controllers for version 2.
int64_t quota_count() {
  int64_t smallest = 0;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    std::string path = line.substr(second + 1);
    if (path.empty() || path == "/") path.clear();
    int64_t here = 0;
    if (controllers == ",,") {
      here = quota_upwards("/sys/fs/cgroup", path, "cpu.max", "");
    } else if (controllers.find(",cpu,") != std::string::npos) {
      here = quota_upwards("/sys/fs/cgroup/cpu", path, "cpu.cfs_quota_us", "cpu.cfs_period_us");
    }
    if (here > 0 && (smallest == 0 || here < smallest)) smallest = here;
  }
  return smallest;
}

}  // namespace

int available_cpus() {
  const int cpus = affinity_count();
  const int64_t quota = quota_count();
  return quota > 0 ? static_cast<int>(std::min<int64_t>(cpus, quota)) : cpus;
}

}  // namespace lockstep
