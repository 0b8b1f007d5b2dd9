#include <algorithm>
#include <bit>
#include <cstring>

#include "lockstep/runtime/files/safetensors.h"
#include "lockstep/runtime/files/safetensors_header.h"
#include "lockstep/runtime/files/system_status.h"

namespace lockstep::files {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

constexpr size_t kLargestHeader = 100'000'000;

using internal::Header;
using internal::HeaderTensor;

absl::Status invalid(const std::string& problem) { return absl::InvalidArgumentError(problem); }

absl::StatusOr<size_t> header_size(std::span<const std::byte> bytes) {
  if (bytes.size() < 8) {
    return invalid("has " + std::to_string(bytes.size()) +
                   " bytes, too few for a safetensors file");
  }
  uint64_t size = 0;
  std::memcpy(&size, bytes.data(), sizeof size);
  if (size > kLargestHeader) {
    return invalid("is not a safetensors file: it gives its header " + std::to_string(size) +
                   " bytes, more than the format allows");
  }
  if (size > bytes.size() - 8) {
    return invalid("is truncated: its header has " + std::to_string(size) + " bytes, but only " +
                   std::to_string(bytes.size() - 8) + " follow");
  }
  return static_cast<size_t>(size);
}

// The tensors must fill the file one after the other.
absl::Status check_layout(std::vector<HeaderTensor>& tensors, size_t available) {
  std::sort(tensors.begin(), tensors.end(), [](const HeaderTensor& a, const HeaderTensor& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  int64_t end = 0;
  for (const HeaderTensor& tensor : tensors) {
    if (tensor.begin != end) {
      return invalid("tensor '" + tensor.name + "' begins at byte " + std::to_string(tensor.begin) +
                     " of the values, expected " + std::to_string(end) +
                     (tensor.begin < end ? " (overlap)" : " (hole)"));
    }
    end = tensor.end;
  }
  if (static_cast<size_t>(end) == available) return absl::OkStatus();
  return invalid((static_cast<size_t>(end) > available ? "is truncated: " : "is too long: ") +
                 std::string("its tensors have ") + std::to_string(end) + " bytes, the file " +
                 std::to_string(available));
}

absl::Status check_booleans(const TensorEntry& tensor) {
  if (tensor.dtype != DType::boolean) return absl::OkStatus();
  const bool sound = std::all_of(tensor.data.begin(), tensor.data.end(),
                                 [](std::byte value) { return value <= std::byte{1}; });
  return sound ? absl::OkStatus()
               : invalid("tensor '" + tensor.name + "': a BOOL that is neither 0 nor 1");
}

template <class Entries>
auto find_by_name(const Entries& entries, std::string_view name) {
  return std::lower_bound(
      entries.begin(), entries.end(), name,
      [](const TensorEntry& entry, std::string_view key) { return entry.name < key; });
}

}  // namespace

int64_t TensorSpec::elements() const {
  int64_t product = 1;
  for (const int64_t dim : shape) product *= dim;
  return product;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  auto mapped = MappedFile::open(path, EmptyFile::refuse);
  if (!mapped.ok()) return mapped.status();
  SafetensorsFile file(*std::move(mapped));
  const std::span<const std::byte> bytes = file.bytes();

  const auto size = header_size(bytes);
  if (!size.ok()) return annotate(size.status(), path.string());
  auto header = internal::parse_header(file.file_.text().substr(8, *size));
  if (!header.ok()) return annotate(header.status(), path.string());
  const auto values = bytes.subspan(8 + *size);
  if (const absl::Status status = check_layout(header->tensors, values.size()); !status.ok()) {
    return annotate(status, path.string());
  }

  file.metadata_ = std::move(header->metadata);
  for (HeaderTensor& tensor : header->tensors) {
    const auto data = values.subspan(static_cast<size_t>(tensor.begin), tensor.bytes());
    TensorEntry& entry = file.tensors_.emplace_back();
    static_cast<TensorSpec&>(entry) = std::move(tensor);
    entry.data = data;
    if (const absl::Status status = check_booleans(entry); !status.ok()) {
      return annotate(status, path.string());
    }
  }
  const auto by_name = [](const TensorEntry& a, const TensorEntry& b) { return a.name < b.name; };
  std::sort(file.tensors_.begin(), file.tensors_.end(), by_name);
  for (size_t i = 1; i < file.tensors_.size(); ++i) {
    if (file.tensors_[i].name == file.tensors_[i - 1].name) {
      return annotate(invalid("tensor '" + file.tensors_[i].name + "' is there twice"),
                      path.string());
    }
  }
  return file;
}

const TensorEntry* SafetensorsFile::find(std::string_view name) const {
  const auto found = find_by_name(tensors_, name);
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

}  // namespace lockstep::files
