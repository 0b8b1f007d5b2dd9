#include "lockstep/runtime/files/checkpoint.h"

#include <gtest/gtest.h>

#include <fstream>
#include <numeric>
#include <stop_token>
#include <utility>

#include "support/checkpoint_writer.h"
#include "support/faulty_file_system.h"
#include "support/temporary_directory.h"

namespace lockstep::files {
namespace {

using lockstep::testing::FaultyFileSystem;
using lockstep::testing::FloatTensor;
using lockstep::testing::TemporaryDirectory;
using lockstep::testing::write_checkpoint;

std::vector<FloatTensor> sample_tensors(float first) {
  std::vector<FloatTensor> tensors = {{"model/w", {3, 5}, std::vector<float>(15)},
                                      {"model/b", {1}, {first}},
                                      {"model/none", {0, 4}, {}},
                                      {"optimizer/exp_avg/w", {3, 5}, std::vector<float>(15)}};
  std::iota(tensors[0].values.begin(), tensors[0].values.end(), first);
  std::iota(tensors[3].values.begin(), tensors[3].values.end(), -first);
  return tensors;
}

void expect_contents(const std::filesystem::path& directory, float first) {
  auto checkpoint = Checkpoint::open(directory);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  for (const FloatTensor& tensor : sample_tensors(first)) {
    const auto count = static_cast<int64_t>(tensor.values.size());
    for (int64_t begin = 0; begin <= count; ++begin) {
      for (int64_t end = begin; end <= count; ++end) {
        std::vector<float> values(static_cast<size_t>(end - begin));
        const absl::Status status = checkpoint->read(tensor.name, begin, end, values.data());
        ASSERT_TRUE(status.ok()) << status;
        ASSERT_TRUE(std::equal(values.begin(), values.end(), tensor.values.begin() + begin));
      }
    }
  }
}

void put(const std::filesystem::path& path, const std::string& bytes) {
  // Not written over: ext4 flushes a file that was cut to nothing and written again.
  std::filesystem::remove(path);
  std::ofstream(path, std::ios::binary) << bytes;
}

void flip(const std::filesystem::path& path, size_t bit) {
  std::string bytes = read_text_file(path).value();
  bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ 1 << bit % 8);
  put(path, bytes);
}

class CheckpointTest : public ::testing::Test {
 protected:
  std::filesystem::path at(int64_t step) { return directory_ / checkpoint_name(step); }
  void write(int64_t step, int world_size, float first = 1) {
    FaultyFileSystem unflushed;
    const absl::Status status = write_checkpoint(unflushed, at(step), step, world_size,
                                                 sample_tensors(first), R"({"epoch":2})");
    ASSERT_TRUE(status.ok()) << status;
  }

  std::vector<std::string> files_of(int64_t step) {
    return posix_file_system().list(at(step)).value();
  }

  TemporaryDirectory directory_;
};

TEST_F(CheckpointTest, ReadsAtAnyWorldSize) {
  for (const int world_size : {1, 2, 3, 20}) {
    write(100, world_size, static_cast<float>(world_size));
    expect_contents(at(100), static_cast<float>(world_size));
    const auto checkpoint = Checkpoint::open(at(100)).value();
    EXPECT_EQ(checkpoint.manifest().step, 100);
    EXPECT_EQ(checkpoint.manifest().world_size, world_size);
    EXPECT_EQ(checkpoint.manifest().attributes, R"({"epoch":2})");
    EXPECT_TRUE(Checkpoint::verify(at(100)).value().empty());
  }
  EXPECT_EQ(at(100).filename(), "step-00000100");
  EXPECT_EQ(posix_file_system().list(directory_.path()).value().size(), 1u);
}

TEST_F(CheckpointTest, FilesAreNamedAsPromised) {
  write(100, 2);
  EXPECT_EQ(files_of(100),
            (std::vector<std::string>{"manifest.json", "shard-00000-of-00002.safetensors",
                                      "shard-00001-of-00002.safetensors"}));
  const auto shard = SafetensorsFile::open(at(100) / "shard-00000-of-00002.safetensors").value();
  EXPECT_NE(shard.find("model/w[0:7]"), nullptr);
  EXPECT_EQ(shard.find("model/b"), nullptr);
}

TEST_F(CheckpointTest, ManifestIsTheLastFileWritten) {
  FaultyFileSystem recording;
  ASSERT_TRUE(write_checkpoint(recording, at(1), 1, 2, sample_tensors(1)).ok());
  const auto& log = recording.log();
  const auto last_open = std::find_if(
      log.rbegin(), log.rend(), [](const std::string& line) { return line.starts_with("open"); });
  EXPECT_EQ(*last_open, "open manifest.json.tmp");
}

TEST_F(CheckpointTest, BadRequestsAreNamed) {
  write(1, 2);
  auto checkpoint = Checkpoint::open(at(1)).value();
  float value = 0;
  EXPECT_EQ(checkpoint.read("model/x", 0, 1, &value).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(checkpoint.read("model/w", 0, 16, &value).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(checkpoint.read("model/w", 3, 2, &value).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(Checkpoint::open(at(2)).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Checkpoint::open(directory_.path()).status().message(),
            directory_.path().string() + " is not a checkpoint: it has no manifest.json");
  const Slice outside{"model/w", DType::f32, {2}, 1, 3, &value};
  ASSERT_TRUE(begin_checkpoint(posix_file_system(), at(2)).ok());
  EXPECT_FALSE(write_shard(posix_file_system(), at(2), 0, 1, std::span(&outside, 1)).ok());
}

TEST_F(CheckpointTest, EveryFlippedBitIsFoundAndNamed) {
  write(1, 2);
  for (const std::string& name : files_of(1)) {
    const size_t size = std::filesystem::file_size(at(1) / name);
    for (size_t byte = 0; byte < size; ++byte) {
      flip(at(1) / name, 8 * byte + byte % 8);
      auto checkpoint = Checkpoint::open(at(1));
      if (name == "manifest.json") {
        ASSERT_EQ(checkpoint.status().code(), absl::StatusCode::kDataLoss) << byte;
        ASSERT_FALSE(Checkpoint::verify(at(1)).ok()) << byte;
      } else {
        float values[15];
        const absl::Status status = checkpoint->read("model/w", 0, 15, values);
        ASSERT_EQ(status.code(), absl::StatusCode::kDataLoss) << name << " " << byte;
        ASSERT_NE(status.message().find(name), absl::string_view::npos) << status;
        const auto damages = Checkpoint::verify(at(1)).value();
        ASSERT_EQ(damages.size(), 1u) << name << " " << byte;
        ASSERT_EQ(damages[0].file, name);
      }
      flip(at(1) / name, 8 * byte + byte % 8);
    }
  }
  expect_contents(at(1), 1);
}

TEST_F(CheckpointTest, VerifyNamesTheDamagedTensors) {
  write(1, 1);
  const auto path = at(1) / "shard-00000-of-00001.safetensors";
  size_t begin = 0;
  {
    const auto file = SafetensorsFile::open(path).value();
    begin = static_cast<size_t>(file.find("model/w")->data.data() - file.bytes().data());
  }
  flip(path, 8 * begin);
  const auto damages = Checkpoint::verify(at(1)).value();
  ASSERT_EQ(damages.size(), 1u);
  EXPECT_EQ(damages[0].tensors, std::vector<std::string>{"model/w"});
  EXPECT_TRUE(damages[0].problem.starts_with("is damaged: its checksum is "));
}

TEST_F(CheckpointTest, EveryTruncationIsFound) {
  write(1, 2);
  for (const std::string& name : files_of(1)) {
    const std::string sound = read_text_file(at(1) / name).value();
    for (size_t size = 0; size < sound.size(); ++size) {
      std::filesystem::resize_file(at(1) / name, size);
      ASSERT_EQ(Checkpoint::open(at(1)).status().code(), absl::StatusCode::kDataLoss)
          << name << " " << size;
      const auto damages = Checkpoint::verify(at(1));
      ASSERT_TRUE(!damages.ok() || damages->size() == 1) << name << " " << size;
      put(at(1) / name, sound);
    }
    std::ofstream(at(1) / name, std::ios::app) << "x";
    ASSERT_FALSE(Checkpoint::open(at(1)).ok());
    put(at(1) / name, sound);
  }
  expect_contents(at(1), 1);
}

TEST_F(CheckpointTest, MissingShardIsNamed) {
  write(1, 2);
  std::filesystem::remove(at(1) / "shard-00001-of-00002.safetensors");
  EXPECT_EQ(Checkpoint::open(at(1)).status().message(),
            (at(1) / "shard-00001-of-00002.safetensors").string() + " is missing");
  const auto damages = Checkpoint::verify(at(1)).value();
  ASSERT_EQ(damages.size(), 1u);
  EXPECT_EQ(damages[0].problem, "is missing");
  EXPECT_EQ(damages[0].tensors.size(), 3u);
}

TEST_F(CheckpointTest, ShardsOfAnotherCheckpointAreFound) {
  write(1, 2, 1);
  write(2, 2, 50);
  const char* name = "shard-00000-of-00002.safetensors";
  std::filesystem::copy_file(at(2) / name, at(1) / name,
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(Checkpoint::verify(at(1)).value().size(), 1u);
}

// Whatever fails while a checkpoint is written, those that were there stay as they were: the one
// before it, and one of the same step.
TEST_F(CheckpointTest, FailureAtAnyOperationDamagesNothing) {
  using Fault = FaultyFileSystem::Fault;
  for (const Fault fault : {Fault::one_operation, Fault::crash, Fault::disk_full}) {
    for (int operation = 0;; ++operation) {
      write(1, 2, 10);
      write(2, 2, 20);
      FaultyFileSystem faulty(fault, operation);
      const absl::Status status = write_checkpoint(faulty, at(2), 2, 3, sample_tensors(30));
      if (faulty.operations() <= operation) break;
      expect_contents(at(1), 10);
      const auto latest = latest_checkpoint(directory_.path());
      ASSERT_TRUE(latest.ok()) << latest.status();
      auto newest = Checkpoint::open(*latest).value();
      EXPECT_EQ(newest.manifest().step, 2) << operation;
      const bool is_new = newest.manifest().world_size == 3;
      EXPECT_TRUE(is_new || !status.ok()) << operation;
      expect_contents(*latest, is_new ? 30 : 20);
      // The next one clears up.
      write(3, 1, 40);
      expect_contents(at(2), is_new ? 30 : 20);
      EXPECT_EQ(posix_file_system().list(directory_.path()).value(),
                (std::vector<std::string>{"step-00000001", "step-00000002", "step-00000003"}))
          << operation;
      posix_file_system().remove_tree(at(3)).IgnoreError();
    }
  }
}

// Three pieces and a bit, in two slices, and a small one.
std::vector<float> long_values() {
  std::vector<float> values(size_t{900} << 10);
  std::iota(values.begin(), values.end(), 1.0f);
  return values;
}

std::vector<Slice> slices_in_memory(const std::vector<float>& values) {
  const auto count = static_cast<int64_t>(values.size()), cut = count / 3;
  return {{"model/long", DType::f32, {count}, cut, count, values.data() + cut},
          {"model/short", DType::f32, {1}, 0, 1, values.data() + 5},
          {"model/long", DType::f32, {count}, 0, cut, values.data()}};
}

TEST_F(CheckpointTest, ValuesMayBeCopiedPieceByPiece) {
  const std::vector<float> values = long_values();
  std::vector<Slice> slices = slices_in_memory(values);
  std::vector<std::string> records;
  for (const int64_t step : {1, 2}) {
    FaultyFileSystem unflushed;
    ASSERT_TRUE(begin_checkpoint(unflushed, at(step)).ok());
    const auto record = write_shard(unflushed, at(step), 0, 1, slices);
    ASSERT_TRUE(record.ok()) << record.status();
    records.push_back(record->to_json());
    const auto manifest = assemble(step, std::span(&*record, 1), "{}");
    ASSERT_TRUE(commit_checkpoint(unflushed, at(step), manifest.value()).ok());
    // Every checksum, of the file and of each slice.
    EXPECT_TRUE(Checkpoint::verify(at(step)).value().empty());
    for (const TensorRecord& tensor : record->tensors) {
      for (const SliceRecord& slice : tensor.slices) {
        const float* data = tensor.name == "model/long" ? values.data() + slice.begin : &values[5];
        const auto count = static_cast<size_t>(slice.end - slice.begin);
        EXPECT_EQ(slice.checksum, checksum_of(std::as_bytes(std::span(data, count))));
      }
    }
    std::vector<float> read(values.size());
    auto checkpoint = Checkpoint::open(at(step)).value();
    ASSERT_TRUE(
        checkpoint.read("model/long", 0, static_cast<int64_t>(read.size()), read.data()).ok());
    EXPECT_TRUE(read == values);
    // The second time they are not in memory.
    for (Slice& slice : slices) {
      const auto* from = static_cast<const char*>(std::exchange(slice.data, nullptr));
      slice.copy = [from](size_t offset, size_t bytes, void* to) {
        std::copy_n(from + offset, bytes, static_cast<char*>(to));
      };
    }
  }
  EXPECT_EQ(records[0], records[1]);
}

TEST_F(CheckpointTest, AShardThatIsGivenUpLeavesNothing) {
  const std::vector<float> values = long_values();
  const std::vector<Slice> slices = slices_in_memory(values);
  for (const bool at_once : {true, false}) {
    ASSERT_TRUE(begin_checkpoint(posix_file_system(), at(1)).ok());
    std::stop_source source;
    std::vector<Slice> stopping = slices;
    stopping[0].copy = [&](size_t, size_t, void*) { source.request_stop(); };
    if (at_once) source.request_stop();
    const auto record = write_shard(posix_file_system(), at(1), 0, 1, stopping, source.get_token());
    EXPECT_EQ(record.status().code(), absl::StatusCode::kCancelled);
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory_.path())) {
      EXPECT_TRUE(entry.is_directory()) << entry.path();
    }
  }
}

TEST_F(CheckpointTest, ListIsInOrderAndSaysWhatIsDamaged) {
  EXPECT_TRUE(list_checkpoints(directory_ / "none").value().empty());
  EXPECT_EQ(latest_checkpoint(directory_ / "none").status().code(), absl::StatusCode::kNotFound);
  for (const int64_t step : {20, 3, 100'000'000}) write(step, 1);
  write(7, 1);
  std::filesystem::remove(at(100'000'000) / "manifest.json");
  std::filesystem::create_directory(directory_ / "step-5");
  std::filesystem::create_directory(directory_ / "other");
  const auto found = list_checkpoints(directory_.path()).value();
  ASSERT_EQ(found.size(), 4u);
  const int64_t steps[] = {3, 7, 20, 100'000'000};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(found[i].step, steps[i]);
    EXPECT_EQ(found[i].status.ok(), i < 3);
  }
  EXPECT_EQ(latest_checkpoint(directory_.path()).value(), at(20));
}

TEST_F(CheckpointTest, PruneKeepsTheNewestThatAreWhole) {
  for (int64_t step = 1; step <= 6; ++step) write(step, 1);
  std::filesystem::remove(at(6) / "manifest.json");
  std::filesystem::remove(at(2) / "manifest.json");
  const auto deleted = prune_checkpoints(posix_file_system(), directory_.path(), 2).value();
  EXPECT_EQ(deleted, (std::vector<std::filesystem::path>{at(3), at(2), at(1)}));
  EXPECT_EQ(posix_file_system().list(directory_.path()).value(),
            (std::vector<std::string>{"step-00000004", "step-00000005", "step-00000006"}));
  prune_checkpoints(posix_file_system(), directory_.path(), 0).value();
  expect_contents(at(5), 1);
}

TEST_F(CheckpointTest, PruneThatIsKilledLeavesNoHalfCheckpoint) {
  for (int operation = 0; operation < 3; ++operation) {
    write(1, 1);
    write(2, 1);
    FaultyFileSystem faulty(FaultyFileSystem::Fault::crash, operation);
    EXPECT_FALSE(prune_checkpoints(faulty, directory_.path(), 1).ok());
    const auto found = list_checkpoints(directory_.path()).value();
    for (const CheckpointInfo& info : found) {
      EXPECT_TRUE(info.status.ok()) << info.status;
    }
    EXPECT_EQ(latest_checkpoint(directory_.path()).value(), at(2));
  }
}

}  // namespace
}  // namespace lockstep::files
