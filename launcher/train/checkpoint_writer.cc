#include "lockstep/launcher/train/checkpoint_writer.h"

#include <cstring>
#include <utility>

#include "lockstep/launcher/train/status.h"
#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/context.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::train {
namespace {

constexpr size_t kAlignment = 64;
constexpr int64_t kGrainBytes = int64_t{1} << 20;

size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

void copy_values(const files::Slice& slice, std::byte* to) {
  if (slice.copy) return slice.copy(0, slice.bytes(), to);
  const auto* from = static_cast<const std::byte*>(slice.data);
  parallel_for(static_cast<int64_t>(slice.bytes()), kGrainBytes, [&](int64_t begin, int64_t end) {
    std::memcpy(to + begin, from + begin, static_cast<size_t>(end - begin));
  });
}

}  // namespace

void CheckpointWriter::take_copy(std::vector<files::Slice>& slices) {
  size_t total = 0;
  for (const files::Slice& slice : slices) total += aligned(slice.bytes());
  if (!copy_ || copy_.bytes() < total) {
    const Purpose purpose("checkpoint");
    copy_ = {};
    const MemoryStatistics memory = backend_of({}).statistics();
    const auto needed = memory.peak_in_use_bytes + static_cast<int64_t>(total);
    if (memory.limit_bytes > 0 && needed > memory.limit_bytes) {
      throw OutOfMemory(concat({"the copy that a checkpoint is written from has ", total,
                                " bytes, beside the ", memory.peak_in_use_bytes,
                                " that steps need; the limit is ", memory.limit_bytes}));
    }
    copy_ = Array::empty({static_cast<int64_t>(total)}, DType::u8);
  }
  auto* to = static_cast<std::byte*>(copy_.data());
  for (files::Slice& slice : slices) {
    copy_values(slice, to);
    slice.data = to;
    slice.copy = nullptr;
    to += aligned(slice.bytes());
  }
}

void CheckpointWriter::start(Shard shard) {
  LOCKSTEP_CHECK(!thread_.joinable(), "a shard is being written");
  take_copy(shard.slices);
  outcome_.reset();
  thread_ = std::jthread([this, shard = std::move(shard)](const std::stop_token& stop) {
    absl::StatusOr<files::ShardRecord> written = absl::UnknownError("");
    try {
      written = files::write_shard(file_system_, shard.directory, shard.rank, shard.world_size,
                                   shard.slices, stop);
    } catch (const std::exception& error) {
      written = absl::InternalError(error.what());
    }
    const std::lock_guard lock(mutex_);
    outcome_ = std::move(written);
  });
}

bool CheckpointWriter::is_written() const {
  const std::lock_guard lock(mutex_);
  return outcome_ && outcome_->ok();
}

std::string CheckpointWriter::failure() const {
  const std::lock_guard lock(mutex_);
  return outcome_ && !outcome_->ok() ? std::string(outcome_->status().message()) : "";
}

files::ShardRecord CheckpointWriter::finish() {
  LOCKSTEP_CHECK(thread_.joinable(), "no shard is being written");
  thread_.join();
  return take(*std::exchange(outcome_, std::nullopt));
}

void CheckpointWriter::give_up() {
  if (!thread_.joinable()) return;
  thread_.request_stop();
  thread_.join();
  outcome_.reset();
}

}  // namespace lockstep::train
