#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "lockstep/runtime/dtype.h"
#include "lockstep/runtime/files/checksum.h"
#include "lockstep/runtime/files/file_system.h"
#include "lockstep/runtime/files/mapped_file.h"

namespace lockstep::files {

// Files in the safetensors format (github.com/huggingface/safetensors): a JSON header, then the
// values, row-major and little-endian.

using Metadata = std::map<std::string, std::string>;

struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;

  int64_t elements() const;
  size_t bytes() const { return static_cast<size_t>(elements()) * size_of(dtype); }
};

// A tensor of an open file. `data` points into the mapping and may be unaligned.
struct TensorEntry : TensorSpec {
  std::span<const std::byte> data;
};

// "F32", "BF16", "BOOL", …
std::string_view safetensors_name_of(DType dtype);

// A safetensors file, every rule of the format checked when it is opened: what is inside may then
// be trusted to be inside. Values are mapped, not read. Immutable.
class SafetensorsFile {
 public:
  // InvalidArgument names the file, the tensor and the rule that is broken; a dtype that the format
  // has and we do not is one of them.
  static absl::StatusOr<SafetensorsFile> open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  // By name.
  const std::vector<TensorEntry>& tensors() const { return tensors_; }
  // Null when there is none.
  const TensorEntry* find(std::string_view name) const;
  const Metadata& metadata() const { return metadata_; }
  // The whole file, header included.
  std::span<const std::byte> bytes() const { return file_.bytes(); }

 private:
  explicit SafetensorsFile(MappedFile file) : file_(std::move(file)) {}

  MappedFile file_;
  std::vector<TensorEntry> tensors_;
  Metadata metadata_;
};

struct WrittenFile {
  int64_t bytes = 0;
  Checksum checksum;
};

// Writes a safetensors file piece by piece; it appears under its name when `finish` succeeds. The
// same tensors and metadata give the same bytes. Values start at a multiple of 8 bytes.
class SafetensorsWriter {
 public:
  // Names must differ. The order of `tensors` does not matter.
  static absl::StatusOr<SafetensorsWriter> create(FileSystem& file_system,
                                                  const std::filesystem::path& path,
                                                  std::vector<TensorSpec> tensors,
                                                  const Metadata& metadata = {});
  // The order in which the values must be appended: larger dtypes first, then by name.
  const std::vector<TensorSpec>& tensors() const { return tensors_; }
  // The next bytes, of any length.
  absl::Status append(std::span<const std::byte> bytes);
  // Fails unless as many bytes were appended as the tensors have.
  absl::StatusOr<WrittenFile> finish();

 private:
  SafetensorsWriter(AtomicFile file, std::filesystem::path path, std::vector<TensorSpec> tensors)
      : file_(std::move(file)), path_(std::move(path)), tensors_(std::move(tensors)) {}

  AtomicFile file_;
  std::filesystem::path path_;
  std::vector<TensorSpec> tensors_;
  Hasher hasher_;
  int64_t written_bytes_ = 0;
  int64_t expected_bytes_ = 0;
};

// Values that are in memory.
struct TensorData : TensorSpec {
  const void* data = nullptr;
};

absl::StatusOr<WrittenFile> write_safetensors(FileSystem& file_system,
                                              const std::filesystem::path& path,
                                              std::span<const TensorData> tensors,
                                              const Metadata& metadata = {});

}  // namespace lockstep::files
