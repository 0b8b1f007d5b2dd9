#include "lockstep/launcher/supervise/checkpoint_command.h"

#include <gtest/gtest.h>

#include <bit>
#include <fstream>
#include <limits>
#include <numeric>
#include <sstream>

#include "lockstep/runtime/files/checkpoint.h"
#include "support/checkpoint_writer.h"
#include "support/faulty_file_system.h"
#include "support/temporary_directory.h"

namespace lockstep::supervise {
namespace {

using testing::FloatTensor;

struct Answer {
  int exit_code;
  std::string out;
  std::string error;
};

Answer ask(const std::vector<std::string>& words) {
  flags::Command program("lockstep", "Test.");
  CheckpointCommand command(program);
  std::vector<std::string> line = {"checkpoint"};
  line.insert(line.end(), words.begin(), words.end());
  const flags::Result parsed = program.parse(line);
  if (parsed.exit_code) return {*parsed.exit_code, parsed.output, parsed.error};
  std::ostringstream out;
  std::ostringstream error;
  const int exit_code = command.run(out, error);
  return {exit_code, out.str(), error.str()};
}

class CheckpointCommandTest : public ::testing::Test {
 protected:
  std::string at(int64_t step) const {
    return (directory_ / "checkpoints" / files::checkpoint_name(step)).string();
  }
  std::string all() const { return (directory_ / "checkpoints").string(); }

  void write(int64_t step, int world_size) {
    testing::FaultyFileSystem unflushed;
    const absl::Status status =
        testing::write_checkpoint(unflushed, at(step), step, world_size, tensors_, R"({"seed":3})");
    ASSERT_TRUE(status.ok()) << status;
  }
  void damage(const std::string& path) {
    std::string bytes = files::read_text_file(path).value();
    bytes.back() = static_cast<char>(bytes.back() ^ 1);
    std::ofstream(path, std::ios::binary) << bytes;
  }

  testing::TemporaryDirectory directory_;
  std::vector<FloatTensor> tensors_ = {{"model/w", {2, 3}, {1, 2, 3, 4, 5, 6}},
                                       {"model/b", {1}, {7}},
                                       {"optimizer/exp_avg/w", {2, 3}, {0, 0, 0, 0, 0, 8}}};
};

TEST_F(CheckpointCommandTest, HashDoesNotDependOnSharding) {
  write(1, 1);
  const std::string hash = ask({"hash", at(1)}).out;
  EXPECT_EQ(hash.size(), 33u);
  for (const int world_size : {2, 3, 5}) {
    write(1, world_size);
    EXPECT_EQ(ask({"hash", at(1)}).out, hash) << world_size;
  }
  tensors_[2].values[0] = 1;
  write(1, 2);
  EXPECT_EQ(ask({"hash", at(1)}).out, hash) << "the optimizer is not part of it";
  tensors_[0].values[0] = -1;
  write(1, 2);
  EXPECT_NE(ask({"hash", at(1)}).out, hash);
}

TEST_F(CheckpointCommandTest, AnyDirectoryMeansItsNewest) {
  write(1, 2);
  tensors_[0].values[0] = 9;
  write(2, 2);
  const Answer newest = ask({"hash", at(2)});
  EXPECT_EQ(newest.exit_code, 0);
  EXPECT_EQ(ask({"hash", all()}).out, newest.out);
  EXPECT_EQ(ask({"hash", directory_.path().string()}).out, newest.out);
  std::filesystem::remove(at(2) + "/manifest.json");
  const Answer older = ask({"hash", all()});
  EXPECT_EQ(older.exit_code, 0);
  EXPECT_EQ(older.out, ask({"hash", at(1)}).out);
  EXPECT_NE(older.error.find("passing over a damaged one: " + at(2)), std::string::npos);
}

TEST_F(CheckpointCommandTest, ListAndShow) {
  write(1, 1);
  write(2, 2);
  std::filesystem::remove(at(1) + "/manifest.json");
  const Answer list = ask({"list", all()});
  EXPECT_EQ(list.exit_code, 0);
  EXPECT_NE(list.out.find(at(1) + "  damaged: "), std::string::npos) << list.out;
  EXPECT_NE(list.out.find(at(2) + "  step 2  ranks 2  bytes "), std::string::npos) << list.out;
  const Answer show = ask({"show", all()});
  EXPECT_EQ(show.exit_code, 0);
  EXPECT_NE(show.out.find("attributes {\"seed\":3}\n"), std::string::npos);
  EXPECT_NE(show.out.find("  model/w  f32 [2, 3]  slices 2\n"), std::string::npos) << show.out;
}

TEST_F(CheckpointCommandTest, VerifyNamesWhatIsDamaged) {
  write(1, 2);
  EXPECT_EQ(ask({"verify", all()}).exit_code, 0);
  damage(at(1) + "/shard-00001-of-00002.safetensors");
  const Answer answer = ask({"verify", all()});
  EXPECT_EQ(answer.exit_code, 1);
  EXPECT_NE(answer.error.find("shard-00001-of-00002.safetensors is damaged: "), std::string::npos);
  EXPECT_NE(answer.error.find("  damaged: optimizer/exp_avg/w\n"), std::string::npos)
      << answer.error;
  EXPECT_EQ(answer.error.find("  damaged: model/w\n"), std::string::npos) << answer.error;
  EXPECT_TRUE(answer.error.ends_with("1 file is damaged\n")) << answer.error;
  for (const char* command : {"hash", "diff", "export"}) {
    std::vector<std::string> words = {command, at(1)};
    if (words[0] == "diff") words.push_back(at(1));
    if (words[0] == "export") words.insert(words.end(), {"--to", (directory_ / "f").string()});
    EXPECT_EQ(ask(words).exit_code, 1) << command;
  }
  EXPECT_FALSE(std::filesystem::exists(directory_ / "f"));
  damage(at(1) + "/manifest.json");
  EXPECT_EQ(ask({"verify", at(1)}).exit_code, 1);
  EXPECT_EQ(ask({"verify", all()}).exit_code, 1);
}

TEST_F(CheckpointCommandTest, DiffPrintsWhatDiffers) {
  write(1, 1);
  write(2, 3);
  Answer answer = ask({"diff", at(1), at(2)});
  EXPECT_EQ(answer.exit_code, 0);
  EXPECT_EQ(answer.out, "identical: 3 tensors\n");

  tensors_[0].values[1] += 0.5f;
  tensors_[0].values[4] -= 0.25f;
  tensors_[2].values[5] = -tensors_[2].values[5];
  write(3, 2);
  answer = ask({"diff", at(1), at(3)});
  EXPECT_EQ(answer.exit_code, 1);
  EXPECT_EQ(answer.out,
            "model/w: largest difference 0.5, 2 of 6 elements, the first is 1\n"
            "optimizer/exp_avg/w: largest difference 16, 1 of 6 elements, the first is 5\n"
            "2 tensors differ, largest difference 16 in optimizer/exp_avg/w\n");
}

TEST_F(CheckpointCommandTest, DiffSeesSignsOfZeroAndNumbersThatAreNone) {
  tensors_[1].values[0] = 0;
  write(1, 1);
  tensors_[1].values[0] = -0.0f;
  write(2, 1);
  EXPECT_EQ(ask({"diff", at(1), at(2)}).exit_code, 1);
  tensors_[1].values[0] = std::numeric_limits<float>::quiet_NaN();
  write(3, 1);
  write(4, 2);
  EXPECT_NE(ask({"diff", at(1), at(3)}).out.find("largest difference inf"), std::string::npos);
  EXPECT_EQ(ask({"diff", at(3), at(4)}).exit_code, 0);
}

TEST_F(CheckpointCommandTest, DiffSeesTensorsThatAreMissingOrReshaped) {
  write(1, 1);
  tensors_[0].shape = {3, 2};
  tensors_.erase(tensors_.begin() + 1);
  tensors_.push_back({"model/z", {1}, {1}});
  write(2, 1);
  const Answer answer = ask({"diff", at(1), at(2)});
  EXPECT_EQ(answer.exit_code, 1);
  EXPECT_EQ(answer.out,
            "model/b: f32 [1], in the other missing\n"
            "model/w: f32 [2, 3], in the other f32 [3, 2]\n"
            "model/z: missing, in the other f32 [1]\n"
            "3 tensors differ, largest difference 0\n");
}

TEST_F(CheckpointCommandTest, ExportWritesPlainWeights) {
  write(1, 3);
  const std::string to = (directory_ / "model.safetensors").string();
  EXPECT_EQ(ask({"export", all(), "--to", to}).exit_code, 0);
  const auto file = files::SafetensorsFile::open(to);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors().size(), 2u);
  const files::TensorEntry* weight = file->find("w");
  ASSERT_NE(weight, nullptr);
  EXPECT_EQ(weight->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(std::memcmp(weight->data.data(), tensors_[0].values.data(), weight->data.size()), 0);
  EXPECT_EQ(ask({"export", all()}).exit_code, 2);
  EXPECT_EQ(ask({"export", all(), "--to", (directory_ / "no/f").string()}).exit_code, 1);
}

TEST_F(CheckpointCommandTest, PruneKeepsTheNewest) {
  for (int64_t step = 1; step <= 4; ++step) write(step, 1);
  const Answer answer = ask({"prune", directory_.path().string(), "--keep", "2"});
  EXPECT_EQ(answer.exit_code, 0);
  EXPECT_EQ(answer.out, "deleted " + at(2) + "\ndeleted " + at(1) + "\n");
  EXPECT_TRUE(std::filesystem::exists(at(3)));
  EXPECT_EQ(ask({"prune", all(), "--keep", "0"}).exit_code, 2);
  EXPECT_EQ(ask({"prune", all()}).exit_code, 2);
}

TEST_F(CheckpointCommandTest, MissingDirectoriesAreNamed) {
  const std::string nowhere = (directory_ / "nowhere").string();
  for (const char* command : {"list", "show", "verify", "hash"}) {
    const Answer answer = ask({command, nowhere});
    EXPECT_EQ(answer.exit_code, 1) << command;
    EXPECT_EQ(answer.error, "lockstep checkpoint: " + nowhere + " does not exist\n");
  }
  EXPECT_EQ(ask({"hash", directory_.path().string()}).error,
            "lockstep checkpoint: " + directory_.path().string() +
                " is no checkpoint (no manifest.json) and holds none\n");
}

}  // namespace
}  // namespace lockstep::supervise
