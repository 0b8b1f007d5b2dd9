#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lockstep/collectives/work.h"
#include "lockstep/runtime/array.h"
#include "lockstep/runtime/reduce_op.h"

namespace lockstep {

struct CollectiveOptions {
  // For errors and traces, and the same on all ranks: "gradients", "model check".
  std::string_view what = {};
  int bucket = -1;  // of the reducer; -1: none
  // A place on the caller's device at which the arrays are complete. Null: that is behind all that
  // has been queued there.
  std::shared_ptr<const Mark> ready = {};
};

class Activity;        // collectives/activity.h
class FlightRecorder;  // collectives/flight_recorder.h
class Store;           // collectives/store/store.h
class Mark;            // runtime/backend.h
struct World;          // collectives/world.h
using LateHandler = std::function<std::optional<std::string>(const WorkState& work)>;

// A fixed group of ranks on one kind of transport. All ranks make the same calls in the same order,
// from one thread each. Calls return at once; results are there after Work::wait. Arrays are
// contiguous and must not be touched until then; the version of what a call writes grows with the
// call. They are on this communicator's device; or on the host, all of a call: few values that
// ranks agree on, which a device's transport carries over.
class Communicator {
 public:
  virtual ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  virtual std::string_view backend() const = 0;  // "single", "threads", "mpi", "nccl"
  virtual Device device() const { return {}; }   // where its arrays live

  // In place. f64, f32, bf16, f16 (on the host summed in float; NCCL may round between ranks), i64,
  // i32, u8 (no mean for integers).
  Work all_reduce(const Array& values, ReduceOp reduction, CollectiveOptions options = {});
  // `input` holds size() slices of `output`'s elements; slice rank() arrives reduced in `output`,
  // which may be that slice of `input`.
  Work reduce_scatter(const Array& input, const Array& output, ReduceOp reduction,
                      CollectiveOptions options = {});
  // `output` holds size() times `input`'s elements, in rank order; `input` may be its slice rank().
  Work all_gather(const Array& input, const Array& output, CollectiveOptions options = {});
  Work broadcast(const Array& values, int root, CollectiveOptions options = {});
  Work barrier(CollectiveOptions options = {});

  // The ranks that pass the same color, in the order of (key, rank). A collective call.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;

  // Memory for gradient buckets: a transport may place it where it reduces faster. A collective
  // call.
  virtual Array allocate_bucket(int64_t elements, DType dtype);

  // Without progress for this long, a collective fails. Zero: wait for ever.
  void set_timeout(std::chrono::milliseconds timeout) { timeout_ = timeout; }
  std::chrono::milliseconds timeout() const { return timeout_; }

  // Every started and future collective on this rank fails with `reason`. What a transport can
  // tell its peers it does. Never blocks; safe from any thread.
  virtual void abort(std::string_view reason) = 0;

  uint64_t collectives_started() const { return sequence_; }
  // A hash of all collectives that were started here: kinds, dtypes, lengths, reductions, roots,
  // names and buckets, in order. Where it differs, ranks have made different ones.
  uint64_t history() const { return history_; }

  // What happened last, on this communicator and its splits.
  const std::shared_ptr<FlightRecorder>& recorder() const { return recorder_; }
  // What this rank is doing, as far as it says so.
  Activity& activity() const { return *activity_; }
  // "world", or the name of the communicator it was split from and its color: "world/1".
  const std::string& name() const { return name_; }
  // Decides on late collectives, here and on later splits. Called by threads that wait, and by the
  // transport's own where nobody waits.
  void set_late_handler(LateHandler handler);

 protected:
  Communicator(int rank, int size);
  // For a split: its name, and what it shares with `parent`.
  void descend_from(const Communicator& parent, int color);
  // Numbers, records and lets watch over a collective that the transport starts by itself.
  void enlist(const std::shared_ptr<WorkState>& work, CollectiveOptions options);

 private:
  virtual void start(const std::shared_ptr<WorkState>& work) = 0;
  Work launch(std::shared_ptr<WorkState> work, CollectiveOptions options);

  int rank_;
  int size_;
  uint64_t sequence_ = 0;
  uint64_t history_ = 0;
  std::string name_ = "world";
  std::shared_ptr<FlightRecorder> recorder_;
  std::shared_ptr<Activity> activity_;
  std::shared_ptr<const LateHandler> late_;
  std::atomic<std::chrono::milliseconds> timeout_{std::chrono::minutes(10)};  // the watch reads it
};

// A world of one.
std::unique_ptr<Communicator> make_single_communicator(Device device = {});

// `size` ranks as threads of this process: element i is for the thread of rank i.
std::vector<std::unique_ptr<Communicator>> make_thread_group(int size);

// MPI_COMM_WORLD through the MPI plugin (opened here; an Error says what is missing). One per
// process, and it must outlive its splits. After a failed collective a thread may be left inside
// MPI: its destructor does not wait for it, and the process must end with _exit. The same after
// the CollectiveError of ranks that do not all come to MPI's start within `start_within` (zero: for
// ever).
std::unique_ptr<Communicator> make_mpi_communicator(
    std::chrono::milliseconds start_within = std::chrono::minutes(10));

// The ranks of `world`, each with a CUDA device of its own, through NCCL (in the CUDA library,
// which is opened here). They meet in `store`, which is needed no longer afterwards; who has not
// come after `timeout` (zero: wait for ever) is named in an Error. It must outlive its splits.
// Collectives of the world and its splits run one after the other on one stream of the device, and
// the first that fails fails all.
std::unique_ptr<Communicator> make_nccl_communicator(
    Store& store, const World& world, Device device,
    std::chrono::milliseconds timeout = std::chrono::minutes(10));

// Small messages between ranks, for agreement at start and in errors; collective calls.
std::vector<std::string> all_gather_text(Communicator& communicator, std::string_view mine,
                                         std::string_view what);
std::string broadcast_text(Communicator& communicator, std::string_view mine, int root,
                           std::string_view what);

}  // namespace lockstep
