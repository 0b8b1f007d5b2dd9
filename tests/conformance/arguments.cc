#include "conformance/arguments.h"

#include <utility>

namespace lockstep::conformance {
namespace {

template <class Map>
void check_read(const char* what, const Map& given,
                const std::set<std::string, std::less<>>& read) {
  for (const auto& [name, unused] : given) {
    LOCKSTEP_CHECK(read.contains(name), "the ", what, " '", name, "' cannot be expressed");
  }
}

std::string name_text(std::string_view name) { return "'" + std::string(name) + "'"; }

int64_t to_integer(std::string_view name, const Json& value) {
  LOCKSTEP_CHECK(value.is_number_integer(), name_text(name), " is ", value.dump(),
                 ", expected an integer");
  return value.get<int64_t>();
}

int to_dim(std::string_view name, int64_t value) {
  LOCKSTEP_CHECK(std::in_range<int>(value), name_text(name), " is ", value,
                 ", which is no dimension");
  return static_cast<int>(value);
}

Scalar to_scalar(std::string_view name, const Json& value) {
  if (value.is_boolean()) return Scalar(value.get<bool>());
  if (value.is_number_integer()) return Scalar(to_integer(name, value));
  return Scalar(number_of(value));
}

}  // namespace

Tensor Arguments::tensor(std::string_view name) const {
  LOCKSTEP_CHECK(has_tensor(name), "the tensor ", name_text(name), " is missing");
  return optional_tensor(name);
}

Tensor Arguments::optional_tensor(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return Tensor();
  read_tensors_.emplace(name);
  return found->second;
}

std::vector<Tensor> Arguments::tensors(const std::string& name) const {
  std::vector<Tensor> found;
  for (;;) {
    const std::string next = name + "." + std::to_string(found.size());
    if (!has_tensor(next)) return found;
    found.push_back(tensor(next));
  }
}

const Json& Arguments::attribute(std::string_view name) const {
  const auto found = attributes_.find(name);
  LOCKSTEP_CHECK(found != attributes_.end(), "the attribute ", name_text(name), " is missing");
  read_attributes_.emplace(name);
  return *found;
}

bool Arguments::boolean(std::string_view name) const {
  const Json& value = attribute(name);
  LOCKSTEP_CHECK(value.is_boolean(), name_text(name), " is ", value.dump(), ", expected a bool");
  return value.get<bool>();
}

int64_t Arguments::integer(std::string_view name) const {
  return to_integer(name, attribute(name));
}

int Arguments::dim(std::string_view name) const { return to_dim(name, integer(name)); }

double Arguments::number(std::string_view name) const { return number_of(attribute(name)); }

Scalar Arguments::scalar(std::string_view name) const { return to_scalar(name, attribute(name)); }

std::string Arguments::string(std::string_view name) const {
  const Json& value = attribute(name);
  LOCKSTEP_CHECK(value.is_string(), name_text(name), " is ", value.dump(), ", expected a string");
  return value.get<std::string>();
}

std::vector<int64_t> Arguments::integers(std::string_view name) const {
  const Json& value = attribute(name);
  std::vector<int64_t> result;
  if (value.is_null()) return result;
  if (!value.is_array()) return {to_integer(name, value)};
  for (const Json& item : value) result.push_back(to_integer(name, item));
  return result;
}

std::vector<int> Arguments::dims(std::string_view name) const {
  std::vector<int> result;
  for (const int64_t dim : integers(name)) result.push_back(to_dim(name, dim));
  return result;
}

std::vector<double> Arguments::numbers(std::string_view name) const {
  const Json& value = attribute(name);
  std::vector<double> result;
  if (value.is_null()) return result;
  if (!value.is_array()) return {number_of(value)};
  for (const Json& item : value) result.push_back(number_of(item));
  return result;
}

std::optional<int64_t> Arguments::optional_integer(std::string_view name) const {
  if (!has(name) || is_null(name)) return std::nullopt;
  return integer(name);
}

std::optional<int> Arguments::optional_dim(std::string_view name) const {
  if (!has(name) || is_null(name)) return std::nullopt;
  return dim(name);
}

std::optional<double> Arguments::optional_number(std::string_view name) const {
  if (!has(name) || is_null(name)) return std::nullopt;
  return number(name);
}

std::optional<Scalar> Arguments::optional_scalar(std::string_view name) const {
  if (!has(name) || is_null(name)) return std::nullopt;
  return scalar(name);
}

void Arguments::check_all_read() const {
  check_read("tensor", tensors_, read_tensors_);
  check_read("attribute", attributes_.get_ref<const Json::object_t&>(), read_attributes_);
}

}  // namespace lockstep::conformance
