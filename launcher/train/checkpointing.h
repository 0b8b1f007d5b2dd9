#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "lockstep/collectives/communicator.h"
#include "lockstep/launcher/train/checkpoint_writer.h"
#include "lockstep/runtime/array.h"
#include "lockstep/runtime/files/file_system.h"

namespace lockstep::train {

// A piece of a run's state under its name in checkpoints: "model/h.0.ln_1.weight",
// "optimizer/exp_avg/h.0.ln_1.weight". The same list of names on every rank, values contiguous.
struct NamedArray {
  std::string name;
  Array values;
  // Where each rank has only its own part: elements [begin, begin + values.elements()) of a tensor
  // of this shape. Together the ranks have all of it.
  struct Slice {
    Shape shape;
    int64_t begin = 0;
  };
  std::optional<Slice> slice = {};

  const Shape& shape() const { return slice ? slice->shape : values.shape(); }
  int64_t begin() const { return slice ? slice->begin : 0; }
};

// Writes and reads a run's checkpoints: every rank its slices, and of what all have an equal share
// of the bytes, whatever tensors they belong to. Members that are not const are collective calls,
// and fail on all ranks together with AgreedFailure.
class Checkpointer {
 public:
  Checkpointer(files::FileSystem& file_system, Communicator& communicator,
               std::filesystem::path checkpoints, int keep)
      : file_system_(file_system),
        communicator_(communicator),
        checkpoints_(std::move(checkpoints)),
        keep_(keep),
        writer_(file_system) {}

  // Returns when the checkpoint is durable. A failure leaves the earlier ones as they were.
  void save(int64_t step, std::span<const NamedArray> state, const std::string& attributes);

  // The same in two halves. begin() returns when the state is copied, and a thread of each rank
  // writes its shard; commit() waits for those, unless one has failed, and makes the checkpoint
  // durable. In between it does not count, and no other may be begun or saved. A failure of either
  // ends it, and so does give_up().
  void begin(int64_t step, std::span<const NamedArray> state, const std::string& attributes);
  void commit();
  void give_up();
  bool is_pending() const { return pending_.has_value(); }
  // Whether this rank's shard is written; and what has gone wrong with it, if anything has.
  bool is_written() const { return writer_.is_written(); }
  std::string failure() const { return writer_.failure(); }

  // What `--resume` means: the newest valid checkpoint for "auto" (nothing when there is none),
  // nothing for "never", else a step's directory or one that holds such.
  std::optional<std::filesystem::path> find(const std::string& resume);

  struct Loaded {
    int64_t step = 0;
    std::string attributes;  // a JSON object
  };
  // Fills `state`, whatever world size wrote the checkpoint. `check` sees its attributes first and
  // may throw. A tensor of either that the other lacks, or has in another shape or dtype, is an
  // error that names it; of the checkpoint's only those count whose names begin with `part`.
  Loaded load(const std::filesystem::path& directory, std::span<const NamedArray> state,
              const std::function<void(const std::string& attributes)>& check,
              std::string_view part = "");

 private:
  struct Pending {
    int64_t step;
    std::string attributes;
  };
  std::filesystem::path directory_of(int64_t step) const;
  void make_place(int64_t step);
  void in_writing(const std::function<void()>& act);
  void commit_shards(const Pending& checkpoint, const std::string& record);

  files::FileSystem& file_system_;
  Communicator& communicator_;
  std::filesystem::path checkpoints_;
  int keep_;
  CheckpointWriter writer_;
  std::optional<Pending> pending_;
};

}  // namespace lockstep::train
