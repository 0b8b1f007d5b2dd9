#include "lockstep/runtime/cuda/kernels/update.h"

#include "lockstep/runtime/cuda/kernels/update_bodies.h"

namespace lockstep::cuda {
namespace {

template <class Storage>
bool is_stored_as(DType dtype) {
  return is_floating(dtype) && size_of(dtype) == sizeof(Storage);
}

// Whether a thread's 16 bytes, and its part of the copy, travel as one.
template <class Storage>
bool is_aligned(const UpdateRun& run) {
  uintptr_t bits =
      reinterpret_cast<uintptr_t>(run.parameter) | reinterpret_cast<uintptr_t>(run.gradient);
  for (const void* state : run.state) bits |= reinterpret_cast<uintptr_t>(state);
  constexpr size_t kCopyBytes = kUpdateWidth<Storage> * sizeof(uint16_t);
  return bits % sizeof(Sixteen) == 0 && reinterpret_cast<uintptr_t>(run.copy) % kCopyBytes == 0;
}

// Moves runs to `batch` until it is full; `next` is the run to go on with.
template <class Storage>
void collect(const UpdateRun* runs, int count, int* next, RunBatch* batch) {
  constexpr int64_t kTile = kUpdateTile<Storage>;
  batch->first_tile[0] = 0;
  batch->aligned = 0;
  batch->count = 0;
  for (; *next < count && batch->count < kRunsPerLaunch; ++*next) {
    const UpdateRun& run = runs[*next];
    if (!is_stored_as<Storage>(run.dtype) || run.elements == 0) continue;
    const int place = batch->count++;
    batch->runs[place] = run;
    batch->aligned |= uint32_t{is_aligned<Storage>(run)} << place;
    batch->first_tile[place + 1] = batch->first_tile[place] + (run.elements + kTile - 1) / kTile;
  }
}

template <class F, class Storage>
void update_runs(const UpdateRun* runs, int count, Queue& queue) {
  constexpr int kBlocksOfMultiprocessor = 8;
  UpdateBody<F, Storage> body;
  for (int next = 0; next < count;) {
    collect<Storage>(runs, count, &next, &body.batch);
    if (body.batch.count == 0) return;
    const int64_t tiles = body.batch.first_tile[body.batch.count];
    const int64_t most = int64_t{queue.multiprocessors()} * kBlocksOfMultiprocessor;
    launch(body, {.blocks = tiles < most ? tiles : most}, queue);
  }
}

using UpdateRuns = void (*)(const UpdateRun*, int, Queue&);

template <class Storage, class List>
struct Table;
template <class Storage, class... F>
struct Table<Storage, math::TypeList<F...>> {
  static constexpr UpdateRuns all[] = {update_runs<F, Storage>...};
};

}  // namespace

void update(int op, const UpdateRun* runs, int count, Queue& queue) {
  Table<float, math::UpdateOps>::all[op](runs, count, queue);
  Table<uint16_t, math::UpdateOps>::all[op](runs, count, queue);
  Table<double, math::UpdateOps>::all[op](runs, count, queue);
}

}  // namespace lockstep::cuda
