#pragma once

#include <cstdint>

#include "lockstep/runtime/device.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep {

struct CaptureNotes;
class DetectAnomaly;
class LowPrecisionCopies;
class ParameterPager;
class Replay;
class ScopeFrame;
class TouchedTensors;
class Tracer;
class Uploads;

// Where ops choose their dtype (autograd/autocast.h).
struct AutocastState {
  bool on = false;
  DType dtype = DType::bf16;
  LowPrecisionCopies* copies = nullptr;  // of the parameters; not owned
  bool lasting = false;                  // the copies outlive the scope
};

// Everything that is "current", per thread: N ranks can be N threads of one process. A thread
// starts with the defaults; one that works for another copies that one's context.
struct Context {
  Device device;          // where new arrays go
  bool gradients = true;  // ops record (autograd/tensor.h)
  int threads = 0;        // for parallel_for and vendor libraries; 0: as many as may run here
  const char* operation = nullptr;  // what asks for memory, for errors (Operation)
  RandomKey random;                 // the next random operation's key
  Tracer* tracer = nullptr;         // sees every op of this thread (runtime/trace.h)
  ScopeFrame* scope = nullptr;      // innermost open module (runtime/trace.h)
  ParameterPager* pager = nullptr;  // of sharded parameters (runtime/pager.h)
  uint64_t next_node_id = 1;        // creation order of autograd nodes
  AutocastState autocast;
  DetectAnomaly* anomaly = nullptr;   // sees every gradient (autograd/anomaly.h)
  TouchedTensors* touched = nullptr;  // sees what unrecorded ops read (autograd/checkpoint.h)
  bool recomputing = false;           // a forward pass that has run before (autograd/checkpoint.h)
  CaptureNotes* capture = nullptr;    // of the pass that is being captured (runtime/capture.h)
  Uploads* uploads = nullptr;         // where new arrays from the host go (runtime/capture.h)
  const Replay* replay = nullptr;     // of which the host does its part (runtime/capture.h)
};

Context& context();

// Names what asks for memory while it lives: `name` is of static duration. The outermost counts,
// since that is what the user wrote.
class Operation {
 public:
  explicit Operation(const char* name) : Operation(context()) {
    if (before_ == nullptr) context_.operation = name;
  }
  ~Operation() { context_.operation = before_; }
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;

 protected:
  explicit Operation(Context& context) : context_(context), before_(context.operation) {}

  Context& context_;
  const char* before_;
};

// The same for what is kept, whichever op asks for it: "parameters". The innermost counts.
class Purpose : public Operation {
 public:
  explicit Purpose(const char* name) : Operation(context()) { context_.operation = name; }
};

}  // namespace lockstep
