#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lockstep/runtime/trace.h"

namespace lockstep {

// One op that ran.
struct TraceEntry {
  std::string name;
  std::string attributes;
  std::string scope;  // current_scope()
  std::vector<Shape> inputs;
  Shape output;
  DType dtype = DType::f32;  // of the output
  int64_t flops = 0;         // see flops_of
};

// Floating-point operations of matrix products, convolutions and attention, a multiplication and an
// addition counted as two; causal attention as if it were whole. 0 for all other ops, whose time is
// that of memory.
int64_t flops_of(std::string_view op, std::span<const Array> inputs, const Array& output);

// Keeps a list of the ops that this thread runs while it lives, in their order; a tracer that was
// attached before sees them too. Backward passes show the ops that their closures are made of, not
// what fused kernels do.
class TraceLog final : private Tracer {
 public:
  TraceLog();
  ~TraceLog() override;
  TraceLog(const TraceLog&) = delete;
  TraceLog& operator=(const TraceLog&) = delete;

  const std::vector<TraceEntry>& entries() const { return entries_; }
  int64_t flops() const;
  // A table: calls and flops by op name, the most expensive first.
  std::string to_string() const;

 private:
  void op(const OpDescription& description, std::span<const Array> inputs,
          const Array& output) override;
  void scope_opened(std::string_view name) override;
  void scope_closed(std::string_view name) override;

  Tracer* outer_;
  std::vector<TraceEntry> entries_;
};

}  // namespace lockstep
