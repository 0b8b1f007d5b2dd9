#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/autograd/autocast.h"
#include "lockstep/nn/module.h"
#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/capture.h"

namespace lockstep::nn {

// Forward and backward passes that a device does by itself: one that has been seen before is
// captured as a CUDA graph and replayed, so that the host queues one thing instead of hundreds.
// What counts is what a pass queues, and at_each_replay(): every pass of a kind has to compute the
// same, from the module's parameters and buffers, and from what `load` brings to the device
// (Array::from, Tensor::to) in equal shapes. Where any of these or gradients have moved, parameters
// are frozen or thawed, or other leaves are marked, it is captured anew. Passes are done as usual
// until they have settled, while gradients are being reduced, and from then on where they turn out
// not to be such: refusal() says why.
//
//   Array loss = passes.run(0, 1, [&] { batch = Array::from(...); }, [&] { return loss_of(batch);
//   });
//
// Gradients keep their memory from the first capture on. Random numbers go by context().random as
// ever; hooks of leaves (data parallelism's) are called once a replay has begun, not within the
// backward pass.
class CapturedPasses {
 public:
  // `copies` are those that the passes' autocast reads, if it does. All outlive this.
  CapturedPasses(Module& module, Backend& backend, LowPrecisionCopies* copies = nullptr);
  ~CapturedPasses();

  // load(), then the backward pass of weight * loss(). Returns the loss. `kind` tells apart passes
  // that differ in shapes, or in whether gradients are there to be added to.
  Array run(int64_t kind, double weight, const std::function<void()>& load,
            const std::function<Tensor()>& loss);

  // The same in steps. The next pass is of this kind.
  void load(int64_t kind, const std::function<void()>& load);
  // Whether replay() does it. Captures pass() when its time has come; otherwise pass() is to be
  // called as usual. It makes the loss and calls backward(seed(loss, weight)).
  bool captured(const std::function<Array()>& pass);
  Tensor seed(const Tensor& loss, double weight);
  Array replay(double weight);

  // No pass is captured from now on.
  void refuse(const std::string& reason);
  // Why passes are not captured; empty: they are, or will be.
  const std::string& refusal() const { return refusal_; }
  int64_t replays() const { return replays_; }

 private:
  // Passes before one is captured: libraries choose their algorithms, and caches fill.
  static constexpr int kWarmUp = 2;
  // Of which each brought its arrays elsewhere, after which it is not tried any more.
  static constexpr int kMostUnsettled = 8;

  // A parameter as a graph knows it.
  struct CapturedParameter {
    explicit CapturedParameter(const Parameter& parameter);
    bool is_as_before() const;
    bool is_where_before() const;

    Parameter parameter;
    bool frozen;
    bool marked;
    const void* value;
    const void* gradient;  // null: none
  };

  struct Kind {
    Uploads uploads;
    int settled = 0;    // passes whose arrays were brought to the places of before
    int unsettled = 0;  // and that were not
    bool is_settled = false;
    Array weight;       // the loss's gradient
    double filled = 0;  // what it holds
    Array loss;
    CaptureNotes notes;
    uint64_t seed = 0;        // of its random numbers
    uint32_t operations = 0;  // that draw some
    std::vector<CapturedParameter> parameters;
    std::vector<std::pair<Buffer, const void*>> buffers;  // with where they lie
    std::unique_ptr<Capture> capture;
  };

  static void fill(Kind& kind, double weight);
  void capture(Kind& kind, const std::function<Array()>& pass);
  void drop_outdated(Kind& kind) const;
  bool within_bounds(const Kind& kind) const;

  Module& module_;
  Backend& backend_;
  LowPrecisionCopies* copies_;
  std::map<int64_t, Kind> kinds_;
  Kind* kind_ = nullptr;  // of the next pass
  std::string refusal_;
  int64_t replays_ = 0;
};

}  // namespace lockstep::nn
