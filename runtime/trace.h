#pragma once

#include <string>
#include <string_view>

#include "lockstep/runtime/array.h"
#include "lockstep/runtime/context.h"

namespace lockstep {

// What an op says of itself: its name, and what its inputs do not show. The one description that
// traces, exports, counts of operations and error messages read.
struct OpDescription {
  const char* name;
  std::string_view attributes = {};  // "dim=1 keepdim=true"; empty for most
};

// Sees every op of the thread it is attached to (context().tracer), under NoGrad too. Not owned.
class Tracer {
 public:
  virtual ~Tracer() = default;
  virtual void op(const OpDescription& description, std::span<const Array> inputs,
                  const Array& output) = 0;
  virtual void scope_opened(std::string_view name) { (void)name; }
  virtual void scope_closed(std::string_view name) { (void)name; }
};

// An open module on this thread's stack: names for errors and traces, and where gathering of
// sharded parameters and recomputation attach. Lives on the stack of Layer::operator().
class ScopeFrame {
 public:
  explicit ScopeFrame(std::string_view name);
  ~ScopeFrame();
  ScopeFrame(const ScopeFrame&) = delete;
  ScopeFrame& operator=(const ScopeFrame&) = delete;

  std::string_view name() const { return name_; }
  const ScopeFrame* outer() const { return outer_; }

 private:
  std::string_view name_;
  ScopeFrame* outer_;
};

// "h.0 / attention", innermost last; empty outside any module.
std::string current_scope();

}  // namespace lockstep
