#pragma once

#include "conformance/case.h"
#include "conformance/compare.h"
#include "conformance/table.h"

namespace lockstep::conformance {

// Each runs one case and notes what differs from the recording. An Error that escapes is the
// case's failure too.

// Values, what is updated in place, gradients (of the fused and of the recorded backward pass) and
// second derivatives; once with the inputs as they were recorded, once strided in memory.
void replay_op(const Case& recorded, const OpTable& table, Failures& failures);
void replay_optimizer(const Case& recorded, Failures& failures);
void replay_schedule(const Case& recorded, Failures& failures);
void replay_module(const Case& recorded, Failures& failures);

// The inputs of an op's case: variables where the case records a gradient, constants elsewhere.
// `layout` makes the copy that the op sees.
Tensors inputs_of(const Case& recorded, Array (*layout)(const Array&));

// The outputs that have a cotangent, with them.
struct Seeded {
  std::vector<Tensor> outputs;
  std::vector<Tensor> cotangents;
};
Seeded seeded(const Case& recorded, const std::vector<Tensor>& outputs,
              Array (*layout)(const Array&));

}  // namespace lockstep::conformance
