#include <cstring>
#include <unordered_set>

#include "lockstep/nn/module.h"
#include "lockstep/runtime/error.h"
#include "lockstep/runtime/files/safetensors.h"
#include "lockstep/runtime/files/weights.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::nn {
namespace {

struct Entry {
  std::string name;
  Array array;
  const void* identity;
  Parameter parameter = {};  // empty: a buffer
};

// Tied ones under each of their names.
struct CollectState final : Visitor {
  std::vector<Entry> entries;

  void parameter(const std::string& path, Parameter& value) override {
    entries.push_back({path, value.tensor().value(), value.identity(), value});
  }
  void buffer(const std::string& path, Buffer& value) override {
    entries.push_back({path, value.array(), value.identity()});
  }
};

std::vector<Entry> entries_of(Module& module) {
  if (!module.placed()) module.place({});
  CollectState visitor;
  visitor("", module);
  return std::move(visitor.entries);
}

std::string joined(std::string_view what, const std::vector<std::string>& names) {
  if (names.empty()) return "";
  std::string text = std::string(what) + ": ";
  for (size_t i = 0; i < names.size(); ++i) text += (i > 0 ? ", " : "") + names[i];
  return text + "; ";
}

// The value of each entry that has one, or an empty array; what does not fit fails.
std::vector<Array> match(const std::vector<Entry>& entries,
                         const std::map<std::string, Array>& values, bool strict,
                         LoadReport& report) {
  std::vector<Array> found;
  std::unordered_set<const void*> given;
  std::unordered_set<std::string> known;
  std::vector<std::string> mismatched;
  for (const auto& [name, array, identity, parameter] : entries) {
    known.insert(name);
    const auto it = values.find(name);
    found.push_back(it == values.end() ? Array() : it->second);
    if (it == values.end()) continue;
    given.insert(identity);
    if (!it->second || it->second.shape() != array.shape()) {
      mismatched.push_back(
          concat({name, " is ", array.shape(), " here and ",
                  it->second ? it->second.shape().to_string() : "empty", " there"}));
    }
  }
  for (const auto& [name, array, identity, parameter] : entries) {
    if (!given.contains(identity)) report.missing.push_back(name);
  }
  for (const auto& [name, value] : values) {
    if (!known.contains(name)) report.unexpected.push_back(name);
  }
  std::string problem = joined("of another shape", mismatched);
  if (strict) {
    problem += joined("missing", report.missing) + joined("unexpected", report.unexpected);
  }
  if (!problem.empty()) fail({"load_state: ", problem.substr(0, problem.size() - 2)});
  return found;
}

// On the host.
Array read(const files::TensorEntry& entry) {
  Array values = Array::empty(Shape(std::span<const int64_t>(entry.shape)), entry.dtype);
  if (!entry.data.empty()) std::memcpy(values.data(), entry.data.data(), entry.data.size());
  return values;
}

void check(const absl::Status& status) {
  if (!status.ok()) fail({std::string(status.message())});
}

}  // namespace

std::vector<NamedArray> Module::state() {
  std::vector<NamedArray> result;
  for (Entry& entry : entries_of(*this)) {
    result.push_back({std::move(entry.name), std::move(entry.array)});
  }
  return result;
}

LoadReport Module::load_state(const std::map<std::string, Array>& values, bool strict) {
  const std::vector<Entry> entries = entries_of(*this);
  LoadReport report;
  const std::vector<Array> found = match(entries, values, strict, report);
  std::vector<Parameter> parameters;
  for (size_t i = 0; i < entries.size(); ++i) {
    const auto& [name, array, identity, parameter] = entries[i];
    parameters.push_back(parameter);
    if (found[i]) parameter ? parameter.assign(found[i]) : kernels::copy_into(found[i], array);
  }
  for (ShardOwner* owner : shard_owners(parameters)) owner->values_changed();
  return report;
}

LoadReport Module::load_state(const std::filesystem::path& path, bool strict) {
  const absl::StatusOr<files::Weights> weights = files::open_weights(path);
  check(weights.status());
  std::map<std::string, Array> values;
  for (const files::TensorEntry* entry : weights->tensors()) values[entry->name] = read(*entry);
  try {
    return load_state(values, strict);
  } catch (const Error& error) {
    fail({path.string(), ": ", error.what()});
  }
}

void Module::save_state(const std::filesystem::path& path) {
  std::vector<Array> held;  // what the entries' data points into, on the host
  std::vector<files::TensorData> tensors;
  for (const auto& [name, array] : state()) {
    held.push_back(kernels::contiguous(array.to_host()));
    tensors.push_back(
        {{name, array.dtype(), {array.shape().begin(), array.shape().end()}}, held.back().data()});
  }
  check(files::write_safetensors(files::posix_file_system(), path, tensors).status());
}

}  // namespace lockstep::nn
