#include "lockstep/runtime/files/file_system.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "lockstep/runtime/files/checksum.h"
#include "lockstep/runtime/files/mapped_file.h"
#include "support/faulty_file_system.h"
#include "support/temporary_directory.h"

namespace lockstep::files {
namespace {

using lockstep::testing::FaultyFileSystem;
using lockstep::testing::TemporaryDirectory;

std::string contents(const std::filesystem::path& path) { return read_text_file(path).value(); }

TEST(FileSystem, WritesAppendsListsAndRemoves) {
  TemporaryDirectory directory;
  FileSystem& fs = posix_file_system();
  ASSERT_TRUE(fs.create_directories(directory / "a/b").ok());
  ASSERT_TRUE(fs.create_directories(directory / "a/b").ok());
  for (const OpenMode mode : {OpenMode::truncate, OpenMode::append, OpenMode::append}) {
    auto file = fs.open(directory / "a/text", mode).value();
    ASSERT_TRUE(file->append("line\n").ok());
    ASSERT_TRUE(file->sync().ok());
    ASSERT_TRUE(file->close().ok());
  }
  EXPECT_EQ(contents(directory / "a/text"), "line\nline\nline\n");
  EXPECT_EQ(fs.list(directory / "a").value(), (std::vector<std::string>{"b", "text"}));
  EXPECT_TRUE(fs.exists(directory / "a/text"));
  EXPECT_TRUE(fs.remove(directory / "a/text").ok());
  EXPECT_FALSE(fs.exists(directory / "a/text"));
  EXPECT_TRUE(fs.remove_tree(directory / "a").ok());
  EXPECT_TRUE(fs.remove_tree(directory / "a").ok());
  EXPECT_EQ(fs.list(directory.path()).value(), std::vector<std::string>{});
}

TEST(FileSystem, ErrorsNamePathAndReason) {
  TemporaryDirectory directory;
  FileSystem& fs = posix_file_system();
  const auto missing = fs.open(directory / "no/file", OpenMode::truncate).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(missing.message(), "cannot open for writing " + (directory / "no/file").string() +
                                   ": No such file or directory");
  EXPECT_EQ(fs.remove(directory / "no").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(fs.list(directory / "no").status().code(), absl::StatusCode::kNotFound);
  std::ofstream(directory / "file") << "x";
  EXPECT_FALSE(fs.create_directories(directory / "file/below").ok());
  EXPECT_FALSE(fs.create_directories(directory / "file").ok());
}

TEST(FileSystem, SaysThatTheDiskIsFull) {
  if (!std::filesystem::exists("/dev/full")) GTEST_FAIL() << "this system has no /dev/full";
  auto file = posix_file_system().open("/dev/full", OpenMode::append).value();
  const absl::Status status = file->append("x");
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), "cannot write /dev/full: No space left on device (the disk is full)");
}

TEST(FileSystem, LockExcludesAndNamesItsHolder) {
  TemporaryDirectory directory;
  FileSystem& fs = posix_file_system();
  {
    auto lock = fs.lock(directory / "lock");
    ASSERT_TRUE(lock.ok()) << lock.status();
    const auto second = fs.lock(directory / "lock").status();
    EXPECT_EQ(second.code(), absl::StatusCode::kAlreadyExists);
    const std::string holder = "is held by process " + std::to_string(getpid()) + " on host ";
    EXPECT_NE(std::string(second.message()).find(holder), std::string::npos) << second;
  }
  EXPECT_TRUE(fs.lock(directory / "lock").ok());
}

TEST(FileSystem, LockOfADeadProcessIsFree) {
  TemporaryDirectory directory;
  const pid_t child = fork();
  if (child == 0) {
    auto lock = posix_file_system().lock(directory / "lock");
    _exit(lock.ok() ? 7 : 1);  // no destructor: as if killed
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(WEXITSTATUS(status), 7);
  EXPECT_EQ(contents(directory / "lock").substr(0, 8), "process ");
  EXPECT_TRUE(posix_file_system().lock(directory / "lock").ok());
}

TEST(AtomicFile, OldOrNewButNeverBetween) {
  using Fault = FaultyFileSystem::Fault;
  FaultyFileSystem counting;
  {
    TemporaryDirectory directory;
    ASSERT_TRUE(write_file_atomically(counting, directory / "f", "new contents").ok());
    EXPECT_EQ(counting.log(),
              (std::vector<std::string>{"open f.tmp", "append f.tmp", "sync f.tmp", "close f.tmp",
                                        "rename f.tmp to f",
                                        "sync_directory " + directory.path().filename().string()}));
  }
  for (const Fault fault : {Fault::one_operation, Fault::crash, Fault::disk_full}) {
    for (int at = 0; at < counting.operations(); ++at) {
      TemporaryDirectory directory;
      std::ofstream(directory / "f") << "old";
      FaultyFileSystem faulty(fault, at);
      const absl::Status status = write_file_atomically(faulty, directory / "f", "new contents");
      const bool renamed = at >= 5 || status.ok();
      EXPECT_EQ(contents(directory / "f"), renamed ? "new contents" : "old") << at;
      if (fault != Fault::crash) {
        EXPECT_FALSE(std::filesystem::exists(directory / "f.tmp")) << at;
      }
      EXPECT_EQ(status.ok(), fault == Fault::disk_full && at > 2) << at << " " << status;
    }
  }
}

// More than one piece, so that a thread writes most of it.
std::string long_contents() {
  std::string text(size_t{11} << 20, 0);
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 2654435761u >> 13);
  return text;
}

TEST(AtomicFile, LargeFilesAreWrittenBehind) {
  TemporaryDirectory directory;
  FaultyFileSystem counting;
  const std::string text = long_contents();
  {
    auto file = AtomicFile::create(counting, directory / "f").value();
    for (size_t at = 0, size = 1; at < text.size(); at += size, size = 3 * size + 1) {
      // The bytes may go as soon as they are taken.
      std::string part = text.substr(at, size);
      ASSERT_TRUE(file.append(part).ok());
      std::fill(part.begin(), part.end(), 'x');
    }
    ASSERT_TRUE(file.commit().ok());
  }
  EXPECT_TRUE(contents(directory / "f") == text);
  EXPECT_EQ(counting.operations(), 8);  // three appends
  {
    auto file = AtomicFile::create(counting, directory / "g").value();
    ASSERT_TRUE(file.append(text).ok());
  }
  EXPECT_EQ(counting.list(directory.path()).value(), std::vector<std::string>{"f"});
}

TEST(AtomicFile, LargeFilesAreOldOrNewToo) {
  using Fault = FaultyFileSystem::Fault;
  const std::string text = long_contents();
  for (const Fault fault : {Fault::one_operation, Fault::crash, Fault::disk_full}) {
    for (int at = 0; at < 8; ++at) {
      TemporaryDirectory directory;
      std::ofstream(directory / "f") << "old";
      FaultyFileSystem faulty(fault, at);
      const absl::Status status = write_file_atomically(faulty, directory / "f", text);
      const bool renamed = at >= 7 || status.ok();
      EXPECT_TRUE(contents(directory / "f") == (renamed ? text : "old")) << at;
      if (fault != Fault::crash) {
        EXPECT_FALSE(std::filesystem::exists(directory / "f.tmp")) << at;
      }
      EXPECT_EQ(status.ok(), fault == Fault::disk_full && at > 4) << at << " " << status;
    }
  }
}

TEST(AtomicFile, DoesNotTakeThePlaceOfADevice) {
  TemporaryDirectory directory;
  const auto pipe = directory / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const auto file = AtomicFile::create(posix_file_system(), pipe);
  EXPECT_EQ(file.status().message(), pipe.string() + " is no regular file");
  EXPECT_TRUE(std::filesystem::is_fifo(pipe));
}

TEST(MappedFile, RefusesWhatIsNoFile) {
  TemporaryDirectory directory;
  EXPECT_EQ(MappedFile::open(directory / "no").status().code(), absl::StatusCode::kNotFound);
  const auto folder = MappedFile::open(directory.path()).status();
  EXPECT_EQ(folder.message(), directory.path().string() + " is a directory, expected a file");
  EXPECT_FALSE(MappedFile::open("/dev/null").ok());
  std::ofstream(directory / "empty").flush();
  EXPECT_EQ(MappedFile::open(directory / "empty").value().text(), "");
  EXPECT_EQ(MappedFile::open(directory / "empty", EmptyFile::refuse).status().message(),
            (directory / "empty").string() + " is empty");
}

TEST(MappedFile, ReadsAndMoves) {
  TemporaryDirectory directory;
  std::ofstream(directory / "f") << "abc";
  MappedFile file = MappedFile::open(directory / "f").value();
  MappedFile moved = std::move(file);
  EXPECT_EQ(moved.text(), "abc");
  EXPECT_EQ(read_text_file(directory / "f", 3).value(), "abc");
  EXPECT_FALSE(read_text_file(directory / "f", 2).ok());
}

TEST(Checksum, KnownValueHexAndPieces) {
  // XXH3_128bits of the empty input, from the specification.
  EXPECT_EQ(checksum_of(std::string_view()).to_hex(), "99aa06d3014798d86001c324468d497f");
  Hasher hasher;
  const std::string text(10'000, 'x');
  for (size_t at = 0; at < text.size(); at += 77) {
    hasher.update(std::string_view(text).substr(at, 77));
  }
  EXPECT_EQ(hasher.digest(), checksum_of(text));
  EXPECT_EQ(Checksum::from_hex(hasher.digest().to_hex()), hasher.digest());
  EXPECT_FALSE(Checksum::from_hex("99aa"));
  EXPECT_FALSE(Checksum::from_hex(std::string(32, 'g')));
}

}  // namespace
}  // namespace lockstep::files
