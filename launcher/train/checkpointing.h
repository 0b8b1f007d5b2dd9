#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "lockstep/collectives/communicator.h"
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
// of the bytes, whatever tensors they belong to. All members are collective calls, and fail on all
// ranks together with AgreedFailure.
class Checkpointer {
 public:
  Checkpointer(files::FileSystem& file_system, Communicator& communicator,
               std::filesystem::path checkpoints, int keep)
      : file_system_(file_system),
        communicator_(communicator),
        checkpoints_(std::move(checkpoints)),
        keep_(keep) {}

  // Returns when the checkpoint is durable. A failure leaves the earlier ones as they were.
  void save(int64_t step, std::span<const NamedArray> state, const std::string& attributes);

  // What `--resume` means: the newest valid checkpoint for "auto" (nothing when there is none),
  // nothing for "never", else a step's directory or one that holds such.
  std::optional<std::filesystem::path> find(const std::string& resume);

  struct Loaded {
    int64_t step = 0;
    std::string attributes;  // a JSON object
  };
  // Fills `state`, whatever world size wrote the checkpoint. `check` sees its attributes first and
  // may throw. A tensor of either that the other lacks, or has in another shape or dtype, is an
  // error that names it.
  Loaded load(const std::filesystem::path& directory, std::span<const NamedArray> state,
              const std::function<void(const std::string& attributes)>& check);

 private:
  files::FileSystem& file_system_;
  Communicator& communicator_;
  std::filesystem::path checkpoints_;
  int keep_;
};

}  // namespace lockstep::train
