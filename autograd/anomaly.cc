#include "lockstep/autograd/anomaly.h"

#include <cmath>

#include "lockstep/autograd/engine.h"
#include "lockstep/autograd/hooks.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep {
namespace {

// How many elements are NaN, or infinite where that counts too.
int64_t count_anomalies(const Array& values, bool infinity) {
  if (!values || !is_floating(values.dtype()) || values.elements() == 0) return 0;
  const Array dense = kernels::contiguous(values);
  // One fast pass: squares add up to NaN only if there is one among them.
  const double squares = kernels::of(dense).sum_of_squares(dense.view());
  if (std::isfinite(squares) || (!infinity && !std::isnan(squares))) return 0;
  int64_t count = 0;
  for (double value : dense.to_vector<double>()) {
    count += std::isnan(value) || (infinity && std::isinf(value));
  }
  return count;
}

std::string describe(const Array& array) {
  return array ? concat({array.shape(), " ", array.dtype()}) : "absent";
}

std::string describe_anomalies(const Array& array, int64_t count) {
  return concat({count, " of ", array.elements(), " elements of ", describe(array)});
}

const char* state_of(const Array& array) {
  if (count_anomalies(array, false) > 0) return "holds NaN";
  return count_anomalies(array, true) > 0 ? "holds infinity" : "finite";
}

}  // namespace

DetectAnomaly::DetectAnomaly(AnomalyOptions options)
    : options_(options), outer_tracer_(context().tracer), outer_(context().anomaly) {
  context().tracer = this;
  context().anomaly = this;
}

DetectAnomaly::~DetectAnomaly() {
  context().tracer = outer_tracer_;
  context().anomaly = outer_;
}

void DetectAnomaly::scope_opened(std::string_view name) {
  if (outer_tracer_ != nullptr) outer_tracer_->scope_opened(name);
}

void DetectAnomaly::scope_closed(std::string_view name) {
  if (outer_tracer_ != nullptr) outer_tracer_->scope_closed(name);
}

void DetectAnomaly::op(const OpDescription& description, std::span<const Array> inputs,
                       const Array& output) {
  if (outer_tracer_ != nullptr) outer_tracer_->op(description, inputs, output);
  const std::string scope = current_scope();
  last_op_ = concat({description.name, scope.empty() ? " (inputs" : " (in " + scope + "; inputs"});
  for (const Array& input : inputs) last_op_ += " " + describe(input) + ",";
  last_op_.back() = ')';
  last_node_id_ = context().next_node_id;
  // Of a backward pass, gradients are checked as they are handed on.
  if (Engine::running() && !context().recomputing) return;
  const int64_t count = count_anomalies(output, options_.infinity);
  if (count == 0) return;
  std::string message = concat({"anomaly: ", description.name, scope.empty() ? "" : " in ", scope,
                                " made ", options_.infinity ? "NaN or infinity" : "NaN", " in ",
                                describe_anomalies(output, count), "; inputs:"});
  for (const Array& input : inputs)
    message += concat({" ", describe(input), " ", state_of(input), ","});
  message.pop_back();
  throw Error(message);
}

void DetectAnomaly::recorded(Node& node) const {
  if (node.id() == last_node_id_) node.set_origin(last_op_);
}

void DetectAnomaly::check_gradient(const Node& node, int i, const Tensor& gradient) const {
  const int64_t count = count_anomalies(gradient.value(), options_.infinity);
  if (count == 0) return;
  fail({"anomaly: the gradient of input ", i, " of ", node.origin(), " holds ",
        options_.infinity ? "NaN or infinity" : "NaN", " in ",
        describe_anomalies(gradient.value(), count)});
}

}  // namespace lockstep
