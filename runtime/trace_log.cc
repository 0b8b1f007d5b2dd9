#include "lockstep/runtime/trace_log.h"

#include <algorithm>
#include <map>

namespace lockstep {

int64_t flops_of(std::string_view op, std::span<const Array> inputs, const Array& output) {
  if (inputs.empty() || !inputs[0] || output.elements() == 0) return 0;
  if (op == "packed_attention") return 4 * output.elements() * inputs[0].dim(1);
  if (inputs.size() < 2 || !inputs[1]) return 0;
  const Array &first = inputs[0], &second = inputs[1];
  if (op == "matmul" || op == "linear") return 2 * output.elements() * first.dim(-1);
  if (op == "feed_forward" &&
      output.dim(-1) > 0) {  // x [..., in], weight1 [hidden, in]; [..., out]
    return 2 * output.elements() / output.dim(-1) * second.dim(0) *
           (first.dim(-1) + output.dim(-1));
  }
  if (op == "addmm") return 2 * output.elements() * second.dim(-1);
  if (op == "conv1d" || op == "conv2d" || op == "conv3d") {  // weight [out, in/groups, window…]
    return 2 * output.elements() * (second.elements() / second.dim(0));
  }
  if (op.starts_with("conv_transpose")) {  // weight [in, out/groups, window…]
    return 2 * first.elements() * (second.elements() / second.dim(0));
  }
  if (op == "attention") {  // q [..., queries, feature], k [..., keys, feature]
    return 2 * (first.elements() + output.elements()) * second.dim(-2);
  }
  return 0;
}

TraceLog::TraceLog() : outer_(context().tracer) { context().tracer = this; }

TraceLog::~TraceLog() { context().tracer = outer_; }

void TraceLog::op(const OpDescription& description, std::span<const Array> inputs,
                  const Array& output) {
  if (outer_ != nullptr) outer_->op(description, inputs, output);
  TraceEntry entry{.name = description.name,
                   .attributes = std::string(description.attributes),
                   .scope = current_scope(),
                   .output = output.shape(),
                   .dtype = output.dtype(),
                   .flops = flops_of(description.name, inputs, output)};
  for (const Array& input : inputs) entry.inputs.push_back(input.shape());
  entries_.push_back(std::move(entry));
}

void TraceLog::scope_opened(std::string_view name) {
  if (outer_ != nullptr) outer_->scope_opened(name);
}

void TraceLog::scope_closed(std::string_view name) {
  if (outer_ != nullptr) outer_->scope_closed(name);
}

int64_t TraceLog::flops() const {
  int64_t total = 0;
  for (const TraceEntry& entry : entries_) total += entry.flops;
  return total;
}

std::string TraceLog::to_string() const {
  struct Row {
    std::string_view name;
    int64_t calls = 0, flops = 0;
  };
  std::map<std::string_view, Row> by_name;
  for (const TraceEntry& entry : entries_) {
    Row& row = by_name[entry.name];
    row.name = entry.name;
    ++row.calls;
    row.flops += entry.flops;
  }
  std::vector<Row> rows;
  for (const auto& [name, row] : by_name) rows.push_back(row);
  std::stable_sort(rows.begin(), rows.end(),
                   [](const Row& a, const Row& b) { return a.flops > b.flops; });
  std::string text;
  for (const Row& row : rows) {
    text += concat({row.name, ": ", row.calls, " calls, ", row.flops, " flops\n"});
  }
  return text;
}

}  // namespace lockstep
