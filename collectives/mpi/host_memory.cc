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
#include <random>
#include <utility>

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

bool is_file(const struct stat& status, uint64_t device, uint64_t number) {
  return status.st_dev == device && status.st_ino == number;
}

}  // namespace

// How a rank fared with a step of an allocation, and where its segment is.
struct HostMemory::Report {
  int error = 0;  // errno
  char name[60] = {};
  uint64_t device = 0;
  uint64_t number = 0;  // of the file, on the device
};

HostMemory::~HostMemory() {
  close_file();
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

bool HostMemory::map(int local_rank, int file) {
  void* data = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (data == MAP_FAILED) return false;
  segments_[static_cast<size_t>(local_rank)] = static_cast<std::byte*>(data);
  return true;
}

// Takes the pages at once: a full /dev/shm is an error here, and not a SIGBUS later. (A memfd has
// no such limit: the kernel would end processes instead.) The file stays open: the others may find
// it by its descriptor.
bool HostMemory::create(SegmentFiles files, Report& report) {
  std::string name;
  if (files == SegmentFiles::nameless) {
    file_ = ::open("/dev/shm", O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
    name = concat({"/proc/", ::getpid(), "/fd/", file_});
  } else {
    std::random_device random;  // ranks with process namespaces of their own may have equal ids
    name = concat({"/lockstep-", ::getpid(), "-", random(), "-", random()});
    file_ = ::shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file_ >= 0) name_ = name;
  }
  if (file_ < 0) return false;
  name.copy(report.name, sizeof(report.name) - 1);
  struct stat status {};
  if (::fstat(file_, &status) != 0) return false;
  report.device = status.st_dev;
  report.number = status.st_ino;
  errno = ::posix_fallocate(file_, 0, static_cast<off_t>(bytes_));
  return errno == 0 && map(local_rank_, file_);
}

// Another process may have the number, and another file: it is looked at before it is opened.
bool HostMemory::open(int local_rank, SegmentFiles files, const Report& report) {
  struct stat status {};
  const bool nameless = files == SegmentFiles::nameless;
  if (nameless && ::stat(report.name, &status) != 0) return false;
  errno = ENOENT;
  if (nameless && !is_file(status, report.device, report.number)) return false;
  const int file = nameless ? ::open(report.name, O_RDWR | O_CLOEXEC)
                            : ::shm_open(report.name, O_RDWR | O_CLOEXEC, 0);
  if (file < 0) return false;
  errno = ENOENT;
  const bool opened = ::fstat(file, &status) == 0 &&
                      is_file(status, report.device, report.number) && map(local_rank, file);
  const int error = errno;
  ::close(file);
  errno = error;
  return opened;
}

// The mappings hold the memory.
void HostMemory::close_file() {
  if (file_ >= 0) ::close(std::exchange(file_, -1));
  if (!name_.empty()) ::shm_unlink(std::exchange(name_, {}).c_str());
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
  if (files_ == SegmentFiles::nameless) {
    if (auto memory = allocate_in(files_, bytes, reason)) return memory;
  }
  auto memory = allocate_in(SegmentFiles::named, bytes, reason);
  if (memory) files_ = SegmentFiles::named;  // what has not worked here will not
  return memory;
}

// All ranks come to the same end.
std::shared_ptr<HostMemory> HostGroup::allocate_in(SegmentFiles files, size_t bytes,
                                                   std::string* reason) {
  using Report = HostMemory::Report;
  std::shared_ptr<HostMemory> memory(new HostMemory(bytes, local_rank_, local_size()));
  Report mine;
  std::vector<Report> all(static_cast<size_t>(size_));
  const auto all_well = [&](bool well) {
    mine.error = well ? 0 : std::max(errno, 1);
    exchange_(&mine, all.data(), sizeof(Report));
    const auto failed =
        std::find_if(all.begin(), all.end(), [](const Report& report) { return report.error; });
    if (failed == all.end()) return true;
    *reason = concat(
        {"rank ", static_cast<long>(failed - all.begin()), ": ", std::strerror(failed->error)});
    return false;
  };
  bool well = all_well(memory->create(files, mine));
  if (well) {
    bool opened = true;
    for (int i = 0; opened && i < local_size(); ++i) {
      const int other = local_ranks_[static_cast<size_t>(i)];
      if (other != rank_) opened = memory->open(i, files, all[static_cast<size_t>(other)]);
    }
    well = all_well(opened);
  }
  memory->close_file();
  return well ? memory : nullptr;
}

}  // namespace lockstep::mpi
