#pragma once

#include <string>

#include "lockstep/autograd/tensor.h"
#include "lockstep/runtime/trace.h"

namespace lockstep {

struct AnomalyOptions {
  bool infinity = false;  // an infinity counts as well
};

// While one lives, the first op of this thread whose output holds NaN ends in an Error that names
// the op, the module it ran in, the shapes, and which inputs were finite. So does the first
// backward step that makes such a gradient: the Error names the op of the forward pass. Reads every
// value: for finding a fault, not for training. Nothing is read where none lives. Scopes nest;
// other tracers keep seeing every op.
class DetectAnomaly final : private Tracer {
 public:
  explicit DetectAnomaly(AnomalyOptions options = {});
  ~DetectAnomaly() override;
  DetectAnomaly(const DetectAnomaly&) = delete;
  DetectAnomaly& operator=(const DetectAnomaly&) = delete;

  // For the engine: what the node's closure made for its input i.
  void check_gradient(const Node& node, int i, const Tensor& gradient) const;
  // For the engine: `node` records the op that was seen last.
  void recorded(Node& node) const;

 private:
  void op(const OpDescription& description, std::span<const Array> inputs,
          const Array& output) override;
  void scope_opened(std::string_view name) override;
  void scope_closed(std::string_view name) override;

  AnomalyOptions options_;
  Tracer* outer_tracer_;
  DetectAnomaly* outer_;
  std::string last_op_;        // "log (in h.0 / mlp; inputs [2, 3] f32)"
  uint64_t last_node_id_ = 0;  // of the node that records it, if one does
};

}  // namespace lockstep
