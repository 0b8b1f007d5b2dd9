#include "lockstep/runtime/files/safetensors_header.h"

#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

namespace lockstep::files {
namespace {

using Json = nlohmann::json;

constexpr std::array<std::string_view, 8> kNames = {"F64", "F32", "BF16", "F16",
                                                    "I64", "I32", "U8",   "BOOL"};
constexpr std::string_view kOtherNames[] = {
    "F4",  "F6_E2M3", "F6_E3M2", "I8",  "F8_E5M2", "F8_E4M3",     "F8_E8M0",
    "I16", "U16",     "U32",     "C64", "U64",     "F8_E4M3FNUZ", "F8_E5M2FNUZ"};

// What the parser is inside of.
enum class Place { start, names, metadata, tensor, shape, offsets, end };

class HeaderHandler final : public nlohmann::json_sax<Json> {
 public:
  internal::Header header;
  std::string problem;

  bool key(string_t& name) override {
    key_ = name;
    if (place_ == Place::names) {
      if (name == "__metadata__") return metadata_seen_ ? twice(name) : true;
      header.tensors.emplace_back().name = name;
      dtype_seen_ = shape_seen_ = offsets_seen_ = false;
    } else if (place_ == Place::metadata) {
      if (header.metadata.contains(name)) return twice(name);
    } else if (name != "dtype" && name != "shape" && name != "data_offsets") {
      return fail(subject() + "'" + name + "' is no part of a tensor's entry");
    }
    return true;
  }

  bool string(string_t& text) override {
    if (place_ == Place::metadata) {
      header.metadata.emplace(key_, text);
      return true;
    }
    if (place_ != Place::tensor || key_ != "dtype") return unexpected("a string");
    if (dtype_seen_) return twice("dtype");
    dtype_seen_ = true;
    for (size_t i = 0; i < kNames.size(); ++i) {
      if (kNames[i] == text) {
        header.tensors.back().dtype = static_cast<DType>(i);
        return true;
      }
    }
    for (const std::string_view other : kOtherNames) {
      if (other == text) {
        return fail(subject() + "dtype " + text +
                    " is not supported (supported: F64 F32 BF16 F16 I64 I32 U8 BOOL)");
      }
    }
    return fail(subject() + "'" + text + "' is no dtype");
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::shape && place_ != Place::offsets) return unexpected("a number");
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return fail(subject() + std::to_string(value) + " is too large");
    }
    if (place_ == Place::shape) {
      header.tensors.back().shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (offset_count_ == 2) return fail(subject() + "data_offsets has more than two numbers");
    (offset_count_++ == 0 ? header.tensors.back().begin : header.tensors.back().end) =
        static_cast<int64_t>(value);
    return true;
  }

  bool start_object(size_t) override {
    if (place_ == Place::start) {
      place_ = Place::names;
    } else if (place_ == Place::names) {
      const bool is_metadata = key_ == "__metadata__";
      metadata_seen_ |= is_metadata;
      place_ = is_metadata ? Place::metadata : Place::tensor;
    } else {
      return unexpected("an object");
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::names) {
      place_ = Place::end;
      return true;
    }
    const bool was_tensor = place_ == Place::tensor;
    place_ = Place::names;
    return !was_tensor || check_tensor();
  }

  bool start_array(size_t) override {
    if (place_ != Place::tensor) return unexpected("an array");
    if (key_ == "shape") {
      if (shape_seen_) return twice("shape");
      shape_seen_ = true;
      place_ = Place::shape;
    } else if (key_ == "data_offsets") {
      if (offsets_seen_) return twice("data_offsets");
      offsets_seen_ = true;
      offset_count_ = 0;
      place_ = Place::offsets;
    } else {
      return unexpected("an array");
    }
    return true;
  }

  bool end_array() override {
    if (place_ == Place::offsets && offset_count_ != 2) {
      return fail(subject() + "data_offsets needs two numbers");
    }
    place_ = Place::tensor;
    return true;
  }

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_integer(number_integer_t) override { return unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    return unexpected("a number that is not whole or too large");
  }
  bool binary(binary_t&) override { return unexpected("binary data"); }
  bool parse_error(size_t position, const std::string&, const Json::exception&) override {
    return fail("its header is not valid JSON at byte " + std::to_string(position));
  }

 private:
  std::string subject() const {
    if (place_ == Place::metadata) return "metadata '" + key_ + "': ";
    if (place_ == Place::start || header.tensors.empty()) return "";
    return "tensor '" + header.tensors.back().name + "': ";
  }
  bool fail(std::string text) {
    if (problem.empty()) problem = std::move(text);
    return false;
  }
  bool twice(std::string_view name) {
    return fail(subject() + "'" + std::string(name) + "' is there twice");
  }
  bool unexpected(std::string_view what) {
    return fail(subject() + std::string(what) + " where the format has none" +
                (place_ == Place::metadata ? " (metadata values are strings)" : ""));
  }

  bool check_tensor() {
    const internal::HeaderTensor& tensor = header.tensors.back();
    const std::string name = "tensor '" + tensor.name + "': ";
    if (!dtype_seen_) return fail(name + "dtype is missing");
    if (!shape_seen_) return fail(name + "shape is missing");
    if (!offsets_seen_) return fail(name + "data_offsets is missing");
    int64_t bytes = static_cast<int64_t>(size_of(tensor.dtype));
    bool overflow = false;
    for (const int64_t dim : tensor.shape) overflow |= __builtin_mul_overflow(bytes, dim, &bytes);
    if (overflow) return fail(name + "its shape is too large");
    if (tensor.begin > tensor.end || tensor.end - tensor.begin != bytes) {
      return fail(name + "data_offsets [" + std::to_string(tensor.begin) + ", " +
                  std::to_string(tensor.end) + "] where dtype and shape need " +
                  std::to_string(bytes) + " bytes");
    }
    return true;
  }

  Place place_ = Place::start;
  std::string key_;
  int offset_count_ = 0;
  bool metadata_seen_ = false;
  bool dtype_seen_ = false;
  bool shape_seen_ = false;
  bool offsets_seen_ = false;
};

}  // namespace

std::string_view safetensors_name_of(DType dtype) { return kNames[static_cast<size_t>(dtype)]; }

namespace internal {

absl::StatusOr<Header> parse_header(std::string_view json) {
  const auto invalid = [](const std::string& problem) {
    return absl::InvalidArgumentError(problem);
  };
  if (json.empty() || json.front() != '{') return invalid("its header does not begin with {");
  while (json.back() == ' ') json.remove_suffix(1);
  // The JSON parser takes a NUL for the end of its input.
  if (json.back() != '}' || json.find('\0') != std::string_view::npos) {
    return invalid("its header is not one JSON object padded with spaces");
  }
  HeaderHandler handler;
  if (!Json::sax_parse(json.begin(), json.end(), &handler)) return invalid(handler.problem);
  return std::move(handler.header);
}

}  // namespace internal
}  // namespace lockstep::files
