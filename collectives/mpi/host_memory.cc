#include "lockstep/collectives/mpi/host_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>

#include "lockstep/runtime/error.h"

namespace lockstep::mpi {
namespace {

// Ranks that see one /dev/shm share memory; a container or a simulated host has its own.
struct HostKey {
  uint64_t shared_memory_device = 0;
  char boot[40] = {};

  auto operator<=>(const HostKey&) const = default;
};

HostKey host_key() {
  HostKey key;
  struct stat status {};
  if (::stat("/dev/shm", &status) == 0) key.shared_memory_device = status.st_dev;
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  boot.copy(key.boot, sizeof(key.boot) - 1);
  return key;
}

// How a rank fared with a step of an allocation.
struct Report {
  int error = 0;  // errno
  char name[60] = {};
};

std::byte* map(int file, size_t bytes) {
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  return data == MAP_FAILED ? nullptr : static_cast<std::byte*>(data);
}

}  // namespace

HostMemory::~HostMemory() {
  for (std::byte* segment : segments_) {
    if (segment != nullptr) ::munmap(segment, bytes_);
  }
}

bool HostMemory::owns(const void* data, size_t bytes) const {
  const auto* first = static_cast<const std::byte*>(data);
  return first >= own() && first + bytes <= own() + bytes_;
}

size_t HostMemory::offset_of(const void* data) const {
  return static_cast<size_t>(static_cast<const std::byte*>(data) - own());
}

// Takes the pages at once: a full /dev/shm is an error here, and not a SIGBUS later.
bool HostMemory::create(const std::string& name) {
  const int file = ::shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file < 0) return false;
  const int failed = ::posix_fallocate(file, 0, static_cast<off_t>(bytes_));
  std::byte* data = failed == 0 ? map(file, bytes_) : nullptr;
  const int error = failed != 0 ? failed : errno;
  ::close(file);
  if (data == nullptr) ::shm_unlink(name.c_str());
  errno = error;
  segments_[static_cast<size_t>(local_rank_)] = data;
  return data != nullptr;
}

bool HostMemory::open(int local_rank, const std::string& name) {
  const int file = ::shm_open(name.c_str(), O_RDWR | O_CLOEXEC, 0);
  if (file < 0) return false;
  std::byte* data = map(file, bytes_);
  const int error = errno;
  ::close(file);
  errno = error;
  segments_[static_cast<size_t>(local_rank)] = data;
  return data != nullptr;
}

HostGroup::HostGroup(int rank, int size, Exchange exchange)
    : rank_(rank), size_(size), exchange_(std::move(exchange)) {
  const HostKey mine = host_key();
  std::vector<HostKey> all(static_cast<size_t>(size));
  exchange_(&mine, all.data(), sizeof(HostKey));
  std::map<HostKey, int> ranks_of;
  for (int other = 0; other < size; ++other) {
    const HostKey& key = all[static_cast<size_t>(other)];
    ++ranks_of[key];
    if (key != mine) continue;
    if (other < rank) ++local_rank_;
    local_ranks_.push_back(other);
  }
  const int each = static_cast<int>(local_ranks_.size());
  usable_ = each > 1 && mine.shared_memory_device != 0 &&
            std::all_of(ranks_of.begin(), ranks_of.end(),
                        [&](const auto& host) { return host.second == each; });
}

std::shared_ptr<HostMemory> HostGroup::allocate(size_t bytes, std::string* reason) {
  std::shared_ptr<HostMemory> memory(new HostMemory(bytes, local_rank_, local_size()));
  const std::string name = concat({"/lockstep-", ::getpid(), "-", allocations_++});
  std::vector<Report> all(static_cast<size_t>(size_));
  const auto all_well = [&](bool well) {
    Report mine{.error = well ? 0 : std::max(errno, 1)};
    name.copy(mine.name, sizeof(mine.name) - 1);
    exchange_(&mine, all.data(), sizeof(Report));
    const auto failed =
        std::find_if(all.begin(), all.end(), [](const Report& report) { return report.error; });
    if (failed == all.end()) return true;
    *reason = concat(
        {"rank ", static_cast<long>(failed - all.begin()), ": ", std::strerror(failed->error)});
    return false;
  };
  const bool created = memory->create(name);
  bool well = all_well(created);
  if (well) {
    bool opened = true;
    for (int i = 0; opened && i < local_size(); ++i) {
      const int other = local_ranks_[static_cast<size_t>(i)];
      if (other != rank_) opened = memory->open(i, all[static_cast<size_t>(other)].name);
    }
    well = all_well(opened);
  }
  if (created) ::shm_unlink(name.c_str());
  return well ? memory : nullptr;
}

}  // namespace lockstep::mpi
