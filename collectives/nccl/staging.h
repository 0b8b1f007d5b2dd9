#pragma once

#include <memory>
#include <vector>

#include "lockstep/collectives/nccl/library.h"
#include "lockstep/collectives/work_state.h"

namespace lockstep::nccl {

// How the values of arrays on the host pass through the device: copied into page-locked memory,
// from there by the stream, and back. For the thread that makes the library's calls.
class Staging {
 public:
  explicit Staging(Library& library) : library_(library) {}

  struct Block {
    size_t bytes = 0;
    char* host = nullptr;
    char* device = nullptr;
  };
  // What one collective passes through: all of the larger array, with the smaller one in its place.
  struct Passage {
    Block block;
    size_t input_offset = 0, input_bytes = 0;
    size_t output_offset = 0, output_bytes = 0;

    void* input() const { return block.device + input_offset; }
    void* output() const { return block.device + output_offset; }
  };

  // Each returns an error code of the library. `enter` takes the values of `input` and queues their
  // copy, `leave` queues the copy back; when that is over, `finish` writes `output`.
  int open(const WorkState& work, Passage* passage);
  int enter(const Passage& passage, const void* input);
  int leave(const Passage& passage);
  void finish(const Passage& passage, void* output);

 private:
  Library& library_;
  std::vector<Block> free_;
};

}  // namespace lockstep::nccl
