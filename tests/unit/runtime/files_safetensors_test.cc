#include "lockstep/runtime/files/safetensors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "lockstep/runtime/files/weights.h"
#include "support/faulty_file_system.h"
#include "support/temporary_directory.h"

namespace lockstep::files {
namespace {

using lockstep::testing::FaultyFileSystem;
using lockstep::testing::TemporaryDirectory;

void put(const std::filesystem::path& path, const std::string& bytes) {
  // Not written over: ext4 flushes a file that was cut to nothing and written again.
  std::filesystem::remove(path);
  std::ofstream(path, std::ios::binary) << bytes;
}

// A file with that header and as many value bytes.
std::string raw_file(std::string header, size_t value_bytes) {
  std::string bytes(8, '\0');
  const uint64_t size = header.size();
  std::memcpy(bytes.data(), &size, 8);
  return bytes + header + std::string(value_bytes, '\0');
}

std::string problem_of(const std::string& bytes) {
  TemporaryDirectory directory;
  put(directory / "f", bytes);
  const auto file = SafetensorsFile::open(directory / "f");
  if (file.ok()) return "";
  const std::string message(file.status().message());
  const std::string prefix = (directory / "f").string();
  EXPECT_TRUE(message.starts_with(prefix)) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos);
  const size_t skip = message.starts_with(prefix + ": ") ? 2 : 1;
  return message.substr(prefix.size() + skip);
}

std::string header_problem(const std::string& header, size_t value_bytes) {
  return problem_of(raw_file(header, value_bytes));
}

std::string one(const std::string& entry) { return "{\"x\":{" + entry + "}}"; }

const float kFloats[] = {1, 2, 3, 4, 5, 6};
const double kDoubles[] = {0.5, -0.5};
const bool kBools[] = {true, false, true};

std::vector<TensorData> sample_tensors() {
  std::vector<TensorData> tensors(5);
  tensors[0] = {{"b", DType::f32, {2, 3}}, kFloats};
  tensors[1] = {{"flags", DType::boolean, {3}}, kBools};
  tensors[2] = {{"a \"quoted\" ü", DType::f32, {}}, kFloats};
  tensors[3] = {{"d", DType::f64, {2}}, kDoubles};
  tensors[4] = {{"none", DType::f16, {0, 7}}, nullptr};
  return tensors;
}

TEST(Safetensors, WhatIsWrittenIsRead) {
  TemporaryDirectory directory;
  const auto written = write_safetensors(posix_file_system(), directory / "f", sample_tensors(),
                                         {{"format", "pt"}, {"note", "x"}});
  ASSERT_TRUE(written.ok()) << written.status();
  const auto file = SafetensorsFile::open(directory / "f");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->metadata(), (Metadata{{"format", "pt"}, {"note", "x"}}));
  EXPECT_EQ(written->bytes, static_cast<int64_t>(file->bytes().size()));
  EXPECT_EQ(written->checksum, checksum_of(file->bytes()));
  ASSERT_EQ(file->tensors().size(), 5u);
  for (const TensorData& tensor : sample_tensors()) {
    const TensorEntry* entry = file->find(tensor.name);
    ASSERT_NE(entry, nullptr) << tensor.name;
    EXPECT_EQ(entry->dtype, tensor.dtype);
    EXPECT_EQ(entry->shape, tensor.shape);
    ASSERT_EQ(entry->data.size(), tensor.bytes());
    const auto* data = static_cast<const std::byte*>(tensor.data);
    EXPECT_TRUE(std::equal(entry->data.begin(), entry->data.end(), data));
  }
  EXPECT_EQ(file->find("c"), nullptr);
  EXPECT_EQ(file->find(""), nullptr);
}

TEST(Safetensors, BytesAreThoseOfTheReferenceWriter) {
  TemporaryDirectory directory;
  ASSERT_TRUE(write_safetensors(posix_file_system(), directory / "f",
                                std::vector<TensorData>{{{"b", DType::u8, {1}}, kBools},
                                                        {{"a", DType::f32, {1}}, kFloats}},
                                {})
                  .ok());
  const std::string header =
      "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
      "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[4,5]}}";
  const std::string padded = header + std::string((8 - header.size() % 8) % 8, ' ');
  const std::string expected = raw_file(padded, 0) + std::string("\0\0\x80\x3f\x01", 5);
  EXPECT_EQ(read_text_file(directory / "f").value(), expected);
}

TEST(Safetensors, OrderOfTheTensorsDoesNotMatter) {
  TemporaryDirectory directory;
  auto tensors = sample_tensors();
  const auto first = write_safetensors(posix_file_system(), directory / "f", tensors, {});
  std::reverse(tensors.begin(), tensors.end());
  const auto second = write_safetensors(posix_file_system(), directory / "g", tensors, {});
  EXPECT_EQ(first.value().checksum, second.value().checksum);
}

TEST(Safetensors, EmptyFileOfTensorsIsLegal) {
  EXPECT_EQ(header_problem("{}", 0), "");
  EXPECT_EQ(header_problem("{\"__metadata__\":{}}   ", 0), "");
}

TEST(Safetensors, RefusesBrokenFrames) {
  EXPECT_EQ(problem_of(""), "is empty");
  EXPECT_EQ(problem_of("1234567"), "has 7 bytes, too few for a safetensors file");
  EXPECT_EQ(problem_of(std::string(8, '\xff')),
            "is not a safetensors file: it gives its header 18446744073709551615 bytes, more than "
            "the format allows");
  EXPECT_EQ(problem_of(std::string("\x10\0\0\0\0\0\0\0{}", 10)),
            "is truncated: its header has 16 bytes, but only 2 follow");
  EXPECT_EQ(header_problem("", 0), "its header does not begin with {");
  EXPECT_EQ(header_problem(" {}", 0), "its header does not begin with {");
  EXPECT_EQ(header_problem("{}\n", 0), "its header is not one JSON object padded with spaces");
  EXPECT_EQ(header_problem(std::string("{}\0}", 4), 0),
            "its header is not one JSON object padded with spaces");
  EXPECT_EQ(header_problem("{}{}", 0), "its header is not valid JSON at byte 3");
  EXPECT_EQ(header_problem("{\"\xff\":1}", 0), "its header is not valid JSON at byte 3");
}

TEST(Safetensors, RefusesBrokenEntries) {
  const std::string f32 = "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]";
  EXPECT_EQ(header_problem(one(f32), 4), "");
  const auto problem = [](const std::string& entry, size_t bytes) {
    const std::string text = header_problem(one(entry), bytes);
    EXPECT_TRUE(text.starts_with("tensor 'x': ")) << text;
    return text.substr(std::min<size_t>(12, text.size()));
  };
  EXPECT_EQ(problem("\"shape\":[1],\"data_offsets\":[0,4]", 4), "dtype is missing");
  EXPECT_EQ(problem("\"dtype\":\"F32\",\"data_offsets\":[0,4]", 4), "shape is missing");
  EXPECT_EQ(problem("\"dtype\":\"F32\",\"shape\":[1]", 4), "data_offsets is missing");
  EXPECT_EQ(problem(f32 + ",\"dtype\":\"F32\"", 4), "'dtype' is there twice");
  EXPECT_EQ(problem(f32 + ",\"extra\":1", 4), "'extra' is no part of a tensor's entry");
  EXPECT_EQ(problem("\"dtype\":\"F8_E4M3\",\"shape\":[4],\"data_offsets\":[0,4]", 4),
            "dtype F8_E4M3 is not supported (supported: F64 F32 BF16 F16 I64 I32 U8 BOOL)");
  EXPECT_EQ(problem("\"dtype\":\"float\",\"shape\":[1],\"data_offsets\":[0,4]", 4),
            "'float' is no dtype");
  EXPECT_EQ(problem("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]", 4),
            "data_offsets [0, 4] where dtype and shape need 8 bytes");
  EXPECT_EQ(problem("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]", 4),
            "data_offsets [4, 0] where dtype and shape need 4 bytes");
  EXPECT_EQ(problem("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]", 4),
            "data_offsets needs two numbers");
  EXPECT_EQ(problem("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]", 4),
            "data_offsets has more than two numbers");
  EXPECT_EQ(problem("\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]", 4),
            "a negative number where the format has none");
  EXPECT_EQ(problem("\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]", 4),
            "a number that is not whole or too large where the format has none");
  EXPECT_EQ(
      problem("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]", 0),
      "its shape is too large");
  EXPECT_EQ(problem("\"dtype\":\"F32\",\"shape\":[18446744073709551615],\"data_offsets\":[0,4]", 4),
            "18446744073709551615 is too large");
  EXPECT_EQ(problem("\"dtype\":\"F32\",\"shape\":[[1]],\"data_offsets\":[0,4]", 4),
            "an array where the format has none");
  EXPECT_EQ(problem("\"dtype\":null,\"shape\":[1],\"data_offsets\":[0,4]", 4),
            "null where the format has none");
}

TEST(Safetensors, RefusesBrokenLayouts) {
  const auto two = [](const std::string& a, const std::string& b) {
    return "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + a +
           "},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + b + "}}";
  };
  EXPECT_EQ(header_problem(two("[0,4]", "[4,8]"), 8), "");
  EXPECT_EQ(header_problem(two("[4,8]", "[0,4]"), 8), "");
  EXPECT_EQ(header_problem(two("[0,4]", "[2,6]"), 6),
            "tensor 'b' begins at byte 2 of the values, expected 4 (overlap)");
  EXPECT_EQ(header_problem(two("[0,4]", "[5,9]"), 9),
            "tensor 'b' begins at byte 5 of the values, expected 4 (hole)");
  EXPECT_EQ(header_problem(two("[0,4]", "[4,8]"), 7),
            "is truncated: its tensors have 8 bytes, the file 7");
  EXPECT_EQ(header_problem(two("[0,4]", "[4,8]"), 9),
            "is too long: its tensors have 8 bytes, the file 9");
  const std::string entry = "\"x\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}";
  EXPECT_EQ(header_problem("{" + entry + "," + entry + "}", 0), "tensor 'x' is there twice");
}

TEST(Safetensors, RefusesBrokenMetadataAndBooleans) {
  EXPECT_EQ(header_problem("{\"__metadata__\":{\"a\":1}}", 0),
            "metadata 'a': a number where the format has none (metadata values are strings)");
  EXPECT_EQ(header_problem("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0),
            "metadata 'a': 'a' is there twice");
  EXPECT_NE(header_problem("{\"__metadata__\":{},\"__metadata__\":{}}", 0), "");
  std::string file = raw_file(one("\"dtype\":\"BOOL\",\"shape\":[1],\"data_offsets\":[0,1]"), 1);
  file.back() = 2;
  EXPECT_EQ(problem_of(file), "tensor 'x': a BOOL that is neither 0 nor 1");
}

TEST(Safetensors, HostileNestingCostsNothing) {
  EXPECT_NE(header_problem("{\"x\":" + std::string(1'000'000, '[') + "}", 0), "");
  EXPECT_NE(header_problem(one("\"shape\":" + std::string(1'000'000, '[')), 0), "");
}

// Every flipped bit and every truncation is either refused or leaves a file that is well-formed.
TEST(Safetensors, FlippedBitsAndTruncationsNeverCrash) {
  TemporaryDirectory directory;
  ASSERT_TRUE(
      write_safetensors(posix_file_system(), directory / "f", sample_tensors(), {{"k", "v"}}).ok());
  const std::string sound = read_text_file(directory / "f").value();
  for (size_t size = 0; size < sound.size(); ++size) {
    EXPECT_NE(problem_of(sound.substr(0, size)), "") << size;
  }
  for (size_t bit = 0; bit < 8 * sound.size(); ++bit) {
    std::string flipped = sound;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ 1 << bit % 8);
    put(directory / "g", flipped);
    const auto file = SafetensorsFile::open(directory / "g");
    if (!file.ok()) continue;
    size_t bytes = 0;
    for (const TensorEntry& tensor : file->tensors()) bytes += tensor.data.size();
    EXPECT_LE(bytes, sound.size());
  }
}

TEST(SafetensorsWriter, RefusesWhatNoFileCanHold) {
  TemporaryDirectory directory;
  const auto status = [&](std::vector<TensorSpec> specs, const Metadata& metadata) {
    return SafetensorsWriter::create(posix_file_system(), directory / "f", std::move(specs),
                                     metadata)
        .status();
  };
  EXPECT_EQ(status({{"x", DType::f32, {1}}, {"x", DType::f32, {1}}}, {}).message(),
            "tensor 'x' is there twice");
  EXPECT_FALSE(status({{"x", DType::f32, {-1}}}, {}).ok());
  EXPECT_FALSE(status({{"x", DType::f32, {int64_t{1} << 62}}}, {}).ok());
  EXPECT_FALSE(status({{"__metadata__", DType::f32, {1}}}, {}).ok());
  EXPECT_FALSE(status({{"\xff", DType::f32, {1}}}, {}).ok());
  EXPECT_FALSE(status({}, {{"k", "\xff"}}).ok());
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(SafetensorsWriter, TooFewBytesLeaveNoFile) {
  TemporaryDirectory directory;
  {
    auto writer =
        SafetensorsWriter::create(posix_file_system(), directory / "f", {{"x", DType::f32, {2}}})
            .value();
    ASSERT_TRUE(writer.append(std::as_bytes(std::span(kFloats, 1))).ok());
    EXPECT_FALSE(writer.finish().ok());
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(SafetensorsWriter, FailureAtAnyOperationKeepsTheOldFile) {
  using Fault = FaultyFileSystem::Fault;
  for (const Fault fault : {Fault::one_operation, Fault::disk_full}) {
    for (int at = 0;; ++at) {
      TemporaryDirectory directory;
      put(directory / "f", "old");
      FaultyFileSystem faulty(fault, at);
      const auto written = write_safetensors(faulty, directory / "f", sample_tensors(), {});
      if (faulty.operations() <= at) break;
      if (written.ok()) continue;
      const bool renamed = faulty.log().back().starts_with("sync_directory");
      if (!renamed) {
        EXPECT_EQ(read_text_file(directory / "f").value(), "old") << at;
      }
      EXPECT_FALSE(std::filesystem::exists(directory / "f.tmp")) << at;
    }
  }
}

class WeightsTest : public ::testing::Test {
 protected:
  void shard(const std::string& name, const std::vector<std::string>& tensors) {
    std::vector<TensorData> data;
    for (const std::string& tensor : tensors) data.push_back({{tensor, DType::f32, {2}}, kFloats});
    ASSERT_TRUE(write_safetensors(posix_file_system(), directory_ / name, data, {}).ok());
  }
  void index(const std::string& map) {
    put(directory_ / "model.safetensors.index.json",
        "{\"metadata\":{\"total_size\":16},\"weight_map\":" + map + "}");
  }
  std::string problem() { return std::string(open_weights(directory_.path()).status().message()); }

  TemporaryDirectory directory_;
};

TEST_F(WeightsTest, OneFile) {
  shard("model.safetensors", {"w", "b"});
  for (const auto& path : {directory_.path(), directory_ / "model.safetensors"}) {
    const auto weights = open_weights(path);
    ASSERT_TRUE(weights.ok()) << weights.status();
    ASSERT_EQ(weights->tensors().size(), 2u);
    EXPECT_EQ(weights->tensors()[0]->name, "b");
    EXPECT_EQ(weights->find("w")->data.size(), 8u);
    EXPECT_EQ(weights->find("v"), nullptr);
  }
}

TEST_F(WeightsTest, ShardsWithAnIndex) {
  shard("model-00001-of-00002.safetensors", {"z", "b"});
  shard("model-00002-of-00002.safetensors", {"a"});
  index(R"({"a":"model-00002-of-00002.safetensors","b":"model-00001-of-00002.safetensors",
            "z":"model-00001-of-00002.safetensors"})");
  const auto weights = open_weights(directory_.path());
  ASSERT_TRUE(weights.ok()) << weights.status();
  ASSERT_EQ(weights->tensors().size(), 3u);
  EXPECT_EQ(weights->tensors()[2]->name, "z");
  EXPECT_EQ(weights->file_of("a").filename(), "model-00002-of-00002.safetensors");
  EXPECT_TRUE(open_weights(directory_ / "model.safetensors.index.json").ok());
}

TEST_F(WeightsTest, SaysWhatIsWrong) {
  EXPECT_NE(problem().find("holds neither model.safetensors nor"), std::string::npos);
  EXPECT_EQ(open_weights(directory_ / "no").status().code(), absl::StatusCode::kNotFound);
  index(R"({"a":"one.safetensors"})");
  EXPECT_NE(problem().find("one.safetensors: No such file"), std::string::npos) << problem();
  shard("one.safetensors", {"b"});
  EXPECT_NE(problem().find("tensor 'a' is not in one.safetensors"), std::string::npos) << problem();
  index(R"({"a":"../one.safetensors"})");
  EXPECT_NE(problem().find("is not a file beside it"), std::string::npos) << problem();
  shard("one.safetensors", {"a", "b"});
  index(R"({"a":"one.safetensors"})");
  EXPECT_NE(problem().find("tensor 'b' of"), std::string::npos) << problem();
  shard("two.safetensors", {"a"});
  index(R"({"a":"one.safetensors","b":"two.safetensors"})");
  EXPECT_NE(problem().find("tensor 'a' is in two files"), std::string::npos) << problem();
  index("[]");
  EXPECT_NE(problem().find("it has no weight_map"), std::string::npos) << problem();
  put(directory_ / "model.safetensors.index.json", "{");
  EXPECT_NE(problem().find("not a JSON object"), std::string::npos) << problem();
}

}  // namespace
}  // namespace lockstep::files
