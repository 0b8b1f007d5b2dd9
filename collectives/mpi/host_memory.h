#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace lockstep::mpi {

// How the ranks of a host find each other's segments, files in /dev/shm: without names, where /proc
// shows them the descriptors of each other's processes; elsewhere with names, which stay if a rank
// dies while memory is being made.
enum class SegmentFiles : uint8_t { nameless, named };

// Memory that every rank of this host has mapped: one segment of equal size for each of them. The
// mappings end with the object; nothing of it is left in the file system.
class HostMemory {
 public:
  ~HostMemory();
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  std::byte* segment(int local_rank) const { return segments_[static_cast<size_t>(local_rank)]; }
  std::byte* own() const { return segment(local_rank_); }
  size_t bytes() const { return bytes_; }
  // Whether [data, data + bytes) lies in the segment of this rank.
  bool owns(const void* data, size_t bytes) const;
  size_t offset_of(const void* data) const;

 private:
  friend class HostGroup;
  HostMemory(size_t bytes, int local_rank, int local_size)
      : bytes_(bytes), local_rank_(local_rank), segments_(static_cast<size_t>(local_size)) {}
  struct Report;
  bool create(SegmentFiles files, Report& report);
  bool open(int local_rank, SegmentFiles files, const Report& report);
  bool map(int local_rank, int file);
  void close_file();

  size_t bytes_;
  int local_rank_;
  std::vector<std::byte*> segments_;
  int file_ = -1;     // of this rank's segment, while the others look for it
  std::string name_;  // in /dev/shm, until then
};

// Gives every rank of a group the messages of all, `bytes` each.
using Exchange = std::function<void(const void* mine, void* all, int bytes)>;

// Which ranks of a group share this host's memory. Equal for all ranks: either every host has the
// same number of them and they may reduce through it, or none may.
class HostGroup {
 public:
  // A collective call, like `allocate`.
  HostGroup(int rank, int size, Exchange exchange);

  // More than one rank on each host, and as many on one as on the other.
  bool usable() const { return usable_; }
  int local_rank() const { return local_rank_; }
  int local_size() const { return static_cast<int>(local_ranks_.size()); }
  int hosts() const { return size_ / local_size(); }

  // Zeros. Null on every rank where one has no room; `reason` says on which and why.
  std::shared_ptr<HostMemory> allocate(size_t bytes, std::string* reason);

  SegmentFiles files() const { return files_; }  // of the next allocation

 private:
  std::shared_ptr<HostMemory> allocate_in(SegmentFiles files, size_t bytes, std::string* reason);

  int rank_;
  int size_;
  Exchange exchange_;
  std::vector<int> local_ranks_;  // ranks of the group on this host, ascending
  int local_rank_ = 0;
  bool usable_ = false;
  SegmentFiles files_ = SegmentFiles::nameless;
};

}  // namespace lockstep::mpi
