#include "lockstep/launcher/train/checkpointing.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "lockstep/launcher/train/agreement.h"
#include "lockstep/launcher/train/status.h"
#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/files/checkpoint.h"
#include "lockstep/runtime/log.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::train {
namespace {

std::vector<int64_t> dims(const Shape& shape) {
  return std::vector<int64_t>(shape.begin(), shape.end());
}

// `count` elements of an entry from `first` of what this rank has. The entry's values outlive it.
files::Slice slice_of(const NamedArray& entry, int64_t first, int64_t count) {
  const Array part = entry.values.try_view({entry.values.elements()}).narrow(0, first, count);
  files::Slice slice{.name = entry.name,
                     .dtype = entry.values.dtype(),
                     .full_shape = dims(entry.shape()),
                     .begin = entry.begin() + first,
                     .end = entry.begin() + first + count};
  if (part.device() == Device()) {
    slice.data = part.data();
  } else {
    slice.copy = [part](size_t offset, size_t bytes, void* to) {
      const auto* from = static_cast<const std::byte*>(part.data());
      backend_of(part.device()).copy_to_host(to, from + offset, bytes);
    };
  }
  return slice;
}

// This rank's own slices, and the elements of what all ranks have that fall into its share of those
// bytes, tensor after tensor.
std::vector<files::Slice> slices_of(std::span<const NamedArray> state, int rank, int world_size) {
  int64_t total = 0;
  for (const NamedArray& entry : state) {
    if (!entry.slice) total += static_cast<int64_t>(entry.values.bytes());
  }
  const int64_t share_begin = total * rank / world_size;
  const int64_t share_end = total * (rank + 1) / world_size;
  std::vector<files::Slice> slices;
  int64_t start = 0;  // of the tensor among all bytes
  for (const NamedArray& entry : state) {
    const int64_t item = static_cast<int64_t>(size_of(entry.values.dtype()));
    const int64_t count = entry.values.elements();
    const bool empty = entry.shape().elements() == 0 && rank == 0;
    if (entry.slice) {
      if (count > 0 || empty) slices.push_back(slice_of(entry, 0, count));
      continue;
    }
    // An element belongs to the share that holds its first byte.
    const auto first_at = [&](int64_t byte) {
      return std::clamp<int64_t>((byte - start + item - 1) / item, 0, count);
    };
    const int64_t begin = share_begin <= start ? 0 : first_at(share_begin);
    const int64_t end = share_end <= start ? 0 : first_at(share_end);
    if (begin < end || empty) slices.push_back(slice_of(entry, begin, end - begin));
    start += count * item;
  }
  return slices;
}

void read_into(files::Checkpoint& checkpoint, const NamedArray& entry) {
  const files::TensorRecord* record = checkpoint.manifest().find(entry.name);
  LOCKSTEP_CHECK(record != nullptr, "checkpoint ", checkpoint.directory().string(), " has no ",
                 entry.name);
  const Shape stored{std::span<const int64_t>(record->shape)};
  LOCKSTEP_CHECK(stored == entry.shape() && record->dtype == entry.values.dtype(), "checkpoint ",
                 checkpoint.directory().string(), " holds ", entry.name, " as ", record->dtype, " ",
                 stored, ", this run has ", entry.values.dtype(), " ", entry.shape());
  const int64_t begin = entry.begin(), end = begin + entry.values.elements();
  entry.values.storage()->bump_version();  // on each rank, also where its slice is empty
  if (begin == end) return;
  const bool on_host = entry.values.device() == Device();
  const Array host =
      on_host ? entry.values : Array::empty(entry.values.shape(), entry.values.dtype());
  check(checkpoint.read(entry.name, begin, end, host.data()));
  if (!on_host) kernels::copy_into(host, entry.values);
}

// Part of a model is another model.
void require_no_others(const files::Checkpoint& checkpoint, std::span<const NamedArray> state,
                       std::string_view part) {
  std::set<std::string_view> known;
  for (const NamedArray& entry : state) known.insert(entry.name);
  for (const files::TensorRecord& record : checkpoint.manifest().tensors) {
    if (!record.name.starts_with(part)) continue;
    LOCKSTEP_CHECK(known.contains(record.name), "checkpoint ", checkpoint.directory().string(),
                   " holds ", record.name, ", which this run does not have");
  }
}

}  // namespace

std::filesystem::path Checkpointer::directory_of(int64_t step) const {
  return checkpoints_ / files::checkpoint_name(step);
}

void Checkpointer::make_place(int64_t step) {
  LOCKSTEP_CHECK(!pending_, "a checkpoint is pending");
  agree(communicator_, "checkpoint begin", [&] {
    if (communicator_.rank() == 0) check(files::begin_checkpoint(file_system_, directory_of(step)));
  });
}

void Checkpointer::save(int64_t step, std::span<const NamedArray> state,
                        const std::string& attributes) {
  make_place(step);
  const int rank = communicator_.rank(), size = communicator_.size();
  std::string record;
  agree(communicator_, "checkpoint write", [&] {
    record = take(files::write_shard(file_system_, directory_of(step), rank, size,
                                     slices_of(state, rank, size)))
                 .to_json();
  });
  commit_shards({step, attributes}, record);
}

void Checkpointer::begin(int64_t step, std::span<const NamedArray> state,
                         const std::string& attributes) {
  make_place(step);
  const int rank = communicator_.rank(), size = communicator_.size();
  in_writing([&] {
    agree(communicator_, "checkpoint copy", [&] {
      writer_.start({.directory = directory_of(step),
                     .rank = rank,
                     .world_size = size,
                     .slices = slices_of(state, rank, size)});
    });
  });
  pending_ = {step, attributes};
}

// After a failure no rank writes any more when the first one goes on.
void Checkpointer::in_writing(const std::function<void()>& act) {
  try {
    act();
  } catch (const AgreedFailure&) {
    give_up();
    throw;
  }
}

void Checkpointer::give_up() {
  pending_.reset();
  agree(communicator_, "checkpoint given up", [&] { writer_.give_up(); });
}

void Checkpointer::commit() {
  LOCKSTEP_CHECK(pending_, "no checkpoint is pending");
  const Pending checkpoint = *std::exchange(pending_, std::nullopt);
  std::string record;
  in_writing([&] {
    agree(communicator_, "checkpoint write", [&] {
      if (const std::string failure = writer_.failure(); !failure.empty()) fail({failure});
    });
    agree(communicator_, "checkpoint write", [&] { record = writer_.finish().to_json(); });
  });
  commit_shards(checkpoint, record);
}

void Checkpointer::commit_shards(const Pending& checkpoint, const std::string& record) {
  const std::vector<std::string> records =
      all_gather_text(communicator_, record, "checkpoint records");
  agree(communicator_, "checkpoint commit", [&] {
    if (communicator_.rank() != 0) return;
    std::vector<files::ShardRecord> shards;
    for (const std::string& text : records) {
      shards.push_back(take(files::ShardRecord::from_json(text)));
    }
    check(files::commit_checkpoint(
        file_system_, directory_of(checkpoint.step),
        take(files::assemble(checkpoint.step, shards, checkpoint.attributes))));
    check(files::prune_checkpoints(file_system_, checkpoints_, keep_).status());
  });
}

std::optional<std::filesystem::path> Checkpointer::find(const std::string& resume) {
  std::string found;
  agree(communicator_, "checkpoint search", [&] {
    if (communicator_.rank() != 0 || resume == "never") return;
    if (resume != "auto" && file_system_.exists(std::filesystem::path(resume) / "manifest.json")) {
      found = resume;
      return;
    }
    const std::filesystem::path folder =
        resume == "auto" ? checkpoints_ : std::filesystem::path(resume);
    if (folder.empty()) return;
    const std::vector<files::CheckpointInfo> all = take(files::list_checkpoints(folder));
    for (auto info = all.rbegin(); info != all.rend() && found.empty(); ++info) {
      if (info->status.ok()) {
        found = info->directory.string();
      } else {
        log(LogLevel::warning,
            {"passing over a damaged checkpoint: ", std::string(info->status.message())});
      }
    }
    if (!found.empty() || (all.empty() && resume == "auto")) return;
    fail_usage({"--resume ", resume, ": ", folder.string(), " holds no checkpoint",
                all.empty() ? "" : " that is whole; --resume never begins anew and keeps them"});
  });
  found = broadcast_text(communicator_, found, 0, "checkpoint search");
  return found.empty() ? std::nullopt : std::optional<std::filesystem::path>(found);
}

Checkpointer::Loaded Checkpointer::load(const std::filesystem::path& directory,
                                        std::span<const NamedArray> state,
                                        const std::function<void(const std::string&)>& check,
                                        std::string_view part) {
  Loaded loaded;
  agree(communicator_, "checkpoint load", [&] {
    files::Checkpoint checkpoint = take(files::Checkpoint::open(directory));
    check(checkpoint.manifest().attributes);
    require_no_others(checkpoint, state, part);
    for (const NamedArray& entry : state) read_into(checkpoint, entry);
    loaded = {checkpoint.manifest().step, checkpoint.manifest().attributes};
  });
  return loaded;
}

}  // namespace lockstep::train
