#include "lockstep/runtime/files/manifest.h"

#include <gtest/gtest.h>

namespace lockstep::files {
namespace {

SliceRecord slice(int64_t begin, int64_t end) { return {0, begin, end, {1, 2}}; }

ShardRecord shard(const std::string& name, std::vector<SliceRecord> slices,
                  std::vector<int64_t> shape = {2, 5}) {
  TensorRecord tensor;
  tensor.name = "model/w";
  tensor.shape = std::move(shape);
  tensor.slices = std::move(slices);
  return {{name, 1000, {3, 4}}, {tensor}};
}

std::string problem_of(const std::vector<ShardRecord>& shards) {
  return std::string(assemble(1, shards, "{}").status().message());
}

TEST(Manifest, AssembleSortsSlices) {
  const auto manifest =
      assemble(7, std::vector{shard("a", {slice(4, 10)}), shard("b", {slice(0, 1), slice(1, 4)})},
               R"({"seed":3})");
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->world_size, 2);
  const TensorRecord* tensor = manifest->find("model/w");
  ASSERT_NE(tensor, nullptr);
  ASSERT_EQ(tensor->slices.size(), 3u);
  EXPECT_EQ(tensor->slices[0].file, 1);
  EXPECT_EQ(tensor->slices[2].file, 0);
  EXPECT_EQ(manifest->find("model/v"), nullptr);
}

TEST(Manifest, AssembleNamesGapsAndOverlaps) {
  EXPECT_EQ(problem_of({shard("a", {slice(0, 4)}), shard("b", {slice(5, 10)})}),
            "tensor 'model/w': elements [4, 5) are in no file");
  EXPECT_EQ(problem_of({shard("a", {slice(0, 4)})}),
            "tensor 'model/w': elements [4, 10) are in no file");
  EXPECT_EQ(problem_of({shard("a", {})}), "tensor 'model/w': elements [0, 10) are in no file");
  EXPECT_EQ(problem_of({shard("a", {slice(0, 6)}), shard("b", {slice(4, 10)})}),
            "tensor 'model/w': elements [4, 6) are both in a and in b");
  EXPECT_EQ(problem_of({shard("a", {slice(0, 11)})}), "tensor 'model/w': elements [0, 11) of 10");
  EXPECT_EQ(problem_of({shard("a", {slice(0, 5)}), shard("b", {slice(5, 10)}, {10})}),
            "tensor 'model/w': b has another dtype or shape than the files before it");
  EXPECT_EQ(problem_of({shard("a", {slice(0, 5)}), shard("a", {slice(5, 10)})}),
            "file a is there twice");
  EXPECT_EQ(problem_of({shard("../a", {slice(0, 10)})}), "'../a' is no file of a checkpoint");
  EXPECT_EQ(problem_of({shard("a", {slice(0, 10)}, {1 << 30, 1 << 30, 1 << 30})}),
            "tensor 'model/w': impossible shape");
}

TEST(Manifest, HugeTensorsThatNoFileHoldsAreRefused) {
  EXPECT_EQ(problem_of({shard("a", {slice(0, 1'000'000'000)}, {1'000'000'000})}),
            "tensor 'model/w': elements [0, 1000000000) do not fit in a");
}

TEST(Manifest, AttributesMustBeAnObject) {
  EXPECT_FALSE(assemble(1, std::vector{shard("a", {slice(0, 10)})}, "[]").ok());
  EXPECT_FALSE(assemble(1, std::vector{shard("a", {slice(0, 10)})}, "{").ok());
}

TEST(Manifest, TextIsReadBack) {
  const auto manifest =
      assemble(7, std::vector{shard("a", {slice(0, 10)})}, R"({"order":[1,2],"seed":3})").value();
  const std::string text = manifest.to_json();
  const auto again = Manifest::from_json(text);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->step, 7);
  EXPECT_EQ(again->attributes, R"({"order":[1,2],"seed":3})");
  EXPECT_EQ(again->to_json(), text);
}

TEST(Manifest, EveryFlippedBitAndEveryTruncationIsFound) {
  const std::string text =
      assemble(7, std::vector{shard("a", {slice(0, 10)})}, R"({"seed":3})").value().to_json();
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_FALSE(Manifest::from_json(text.substr(0, size)).ok()) << size;
  }
  for (size_t bit = 0; bit < 8 * text.size(); ++bit) {
    std::string flipped = text;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ 1 << bit % 8);
    EXPECT_FALSE(Manifest::from_json(flipped).ok()) << bit;
  }
  EXPECT_FALSE(Manifest::from_json(text + " ").ok());
}

// A manifest whose checksum is right but whose contents are not.
std::string sealed(const std::string& body) {
  const std::string text = "{\n" + body + ",\n";
  return text + "\"checksum\": \"" + checksum_of(text).to_hex() + "\"\n}\n";
}

TEST(Manifest, RightChecksumOverNonsense) {
  const auto problem = [](const std::string& body) {
    return std::string(Manifest::from_json(sealed(body)).status().message());
  };
  const std::string head = R"("format":"lockstep-checkpoint","version":1,"world_size":1,"step":1,)";
  const std::string tail = R"(,"attributes":{})";
  EXPECT_EQ(problem(head + R"("files":[],"tensors":[])" + tail), "");
  EXPECT_EQ(problem(R"("x":1)"), "is not a manifest: format is missing");
  EXPECT_EQ(problem(R"("format":"other")"),
            "is not a manifest: its format is not lockstep-checkpoint");
  EXPECT_EQ(problem(R"("format":"lockstep-checkpoint","version":2)"),
            "is of format version 2; this program reads version 1");
  EXPECT_EQ(problem(head + R"("files":[],"tensors":[3])" + tail),
            "is not a manifest: expected an object with name");
  EXPECT_EQ(problem(head + R"("files":[{"name":"a","bytes":1.5}],"tensors":[])" + tail),
            "is not a manifest: bytes is not a whole number");
  EXPECT_EQ(problem(head + R"("files":{},"tensors":[])" + tail),
            "is not a manifest: files is not a list");
  EXPECT_EQ(problem(head + R"("files":[],"tensors":[{"name":"w","dtype":"F32","shape":[4],
                    "slices":[{"file":0,"begin":0,"end":4,
                    "checksum":"00000000000000000000000000000000"}]}])" +
                    tail),
            "is inconsistent: tensor 'w': a slice lies in file 0 of 0");
  EXPECT_EQ(problem("]"), "is not a manifest: expected an object with format");
}

TEST(ShardRecord, NonsenseIsRefused) {
  for (const char* text : {"", "{}", "[", R"({"file":{"name":"a","bytes":1,"checksum":"zz"}})"}) {
    EXPECT_FALSE(ShardRecord::from_json(text).ok()) << text;
  }
}

}  // namespace
}  // namespace lockstep::files
