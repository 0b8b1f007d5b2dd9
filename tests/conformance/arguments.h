#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "conformance/case.h"
#include "lockstep/autograd/scalar.h"
#include "lockstep/autograd/tensor.h"

namespace lockstep::conformance {

using Tensors = std::map<std::string, Tensor, std::less<>>;

// What a function was called with, under PyTorch's names. Every reading is noted, so that what
// nobody has read can be told: it must never be ignored. Errors name the argument.
class Arguments {
 public:
  Arguments(Tensors tensors, Json attributes)
      : tensors_(std::move(tensors)), attributes_(std::move(attributes)) {}

  bool has_tensor(std::string_view name) const { return tensors_.contains(name); }
  Tensor tensor(std::string_view name) const;
  // Empty where it was not given.
  Tensor optional_tensor(std::string_view name) const;
  // NAME.0, NAME.1, …
  std::vector<Tensor> tensors(const std::string& name) const;

  bool has(std::string_view name) const { return attributes_.contains(name); }
  bool is_null(std::string_view name) const { return attribute(name).is_null(); }
  bool is_list(std::string_view name) const { return attribute(name).is_array(); }
  bool is_string(std::string_view name) const { return attribute(name).is_string(); }
  const Json& attribute(std::string_view name) const;

  bool boolean(std::string_view name) const;
  int64_t integer(std::string_view name) const;
  int dim(std::string_view name) const;
  double number(std::string_view name) const;
  // Of the type that it was written in.
  Scalar scalar(std::string_view name) const;
  std::string string(std::string_view name) const;
  // A list, a single integer, or null: nothing.
  std::vector<int64_t> integers(std::string_view name) const;
  std::vector<int> dims(std::string_view name) const;
  std::vector<double> numbers(std::string_view name) const;
  // Null, or not given.
  std::optional<int64_t> optional_integer(std::string_view name) const;
  std::optional<int> optional_dim(std::string_view name) const;
  std::optional<double> optional_number(std::string_view name) const;
  std::optional<Scalar> optional_scalar(std::string_view name) const;

  // Throws Error naming what was not read.
  void check_all_read() const;

 private:
  Tensors tensors_;
  Json attributes_;
  mutable std::set<std::string, std::less<>> read_tensors_;
  mutable std::set<std::string, std::less<>> read_attributes_;
};

}  // namespace lockstep::conformance
