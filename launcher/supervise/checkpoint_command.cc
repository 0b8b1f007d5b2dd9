#include "lockstep/launcher/supervise/checkpoint_command.h"

#include <algorithm>
#include <iomanip>
#include <ostream>

#include "lockstep/launcher/supervise/checkpoint_actions.h"

namespace lockstep::supervise {
namespace {

namespace fs = std::filesystem;

int64_t bytes_of(const files::Manifest& manifest) {
  int64_t bytes = 0;
  for (const files::FileRecord& file : manifest.files) bytes += file.bytes;
  return bytes;
}

absl::StatusOr<files::Checkpoint> open(const fs::path& path, std::ostream& error) {
  const auto directory = choose_checkpoint(path, error);
  if (!directory.ok()) return directory.status();
  return files::Checkpoint::open(*directory);
}

absl::StatusOr<int> list(const fs::path& path, std::ostream& out) {
  std::error_code failure;
  if (!fs::exists(path, failure)) return absl::NotFoundError(path.string() + " does not exist");
  std::vector<files::CheckpointInfo> found;
  if (fs::exists(path / "manifest.json", failure)) {
    found.push_back({path, 0, files::Checkpoint::open(path).status()});
  } else {
    auto listed = files::list_checkpoints(checkpoints_of(path));
    if (!listed.ok()) return listed.status();
    found = *std::move(listed);
  }
  for (const files::CheckpointInfo& info : found) {
    out << info.directory.string() << "  ";
    const auto checkpoint = files::Checkpoint::open(info.directory);
    if (checkpoint.ok()) {
      const files::Manifest& manifest = checkpoint->manifest();
      out << "step " << manifest.step << "  ranks " << manifest.world_size << "  bytes "
          << bytes_of(manifest) << "\n";
    } else {
      out << "damaged: " << info.status.message() << "\n";
    }
  }
  return 0;
}

absl::StatusOr<int> show(const fs::path& path, std::ostream& out, std::ostream& error) {
  const auto checkpoint = open(path, error);
  if (!checkpoint.ok()) return checkpoint.status();
  const files::Manifest& manifest = checkpoint->manifest();
  out << checkpoint->directory().string() << "\nstep " << manifest.step << "\nranks "
      << manifest.world_size << "\nbytes " << bytes_of(manifest) << "\nattributes "
      << manifest.attributes << "\n\nfiles:\n";
  for (const files::FileRecord& file : manifest.files) {
    out << "  " << file.name << "  bytes " << file.bytes << "  checksum " << file.checksum.to_hex()
        << "\n";
  }
  out << "\ntensors:\n";
  for (const files::TensorRecord& tensor : manifest.tensors) {
    out << "  " << tensor.name << "  " << name_of(tensor.dtype) << " [";
    for (size_t i = 0; i < tensor.shape.size(); ++i) out << (i == 0 ? "" : ", ") << tensor.shape[i];
    out << "]  slices " << tensor.slices.size() << "\n";
  }
  return 0;
}

absl::StatusOr<int> verify(const fs::path& path, std::ostream& out, std::ostream& error) {
  fs::path directory = path;
  const auto found = files::list_checkpoints(checkpoints_of(path));
  if (found.ok() && !found->empty()) {
    // The newest even where it is damaged: that is what is asked.
    directory = found->back().directory;
  }
  const auto damages = files::Checkpoint::verify(directory);
  if (!damages.ok()) return damages.status();
  for (const files::Damage& damage : *damages) {
    error << (directory / damage.file).string() << " " << damage.problem << "\n";
    for (const std::string& tensor : damage.tensors) error << "  damaged: " << tensor << "\n";
  }
  if (!damages->empty()) {
    error << "lockstep checkpoint verify: " << directory.string() << ": " << damages->size()
          << (damages->size() == 1 ? " file is" : " files are") << " damaged\n";
    return 1;
  }
  out << directory.string() << " is whole\n";
  return 0;
}

absl::StatusOr<int> hash(const fs::path& path, std::ostream& out, std::ostream& error) {
  auto checkpoint = open(path, error);
  if (!checkpoint.ok()) return checkpoint.status();
  const auto hash = hash_model(*checkpoint);
  if (!hash.ok()) return hash.status();
  out << hash->to_hex() << "\n";
  return 0;
}

absl::StatusOr<int> diff(const fs::path& path, const fs::path& other, std::ostream& out,
                         std::ostream& error) {
  auto a = open(path, error);
  if (!a.ok()) return a.status();
  auto b = open(other, error);
  if (!b.ok()) return b.status();
  const auto same = diff_checkpoints(*a, *b, out);
  if (!same.ok()) return same.status();
  return *same ? 0 : 1;
}

absl::StatusOr<int> export_to(const fs::path& path, const fs::path& to, std::ostream& out,
                              std::ostream& error) {
  auto checkpoint = open(path, error);
  if (!checkpoint.ok()) return checkpoint.status();
  if (const absl::Status status = export_model(*checkpoint, to); !status.ok()) return status;
  out << to.string() << "\n";
  return 0;
}

absl::StatusOr<int> prune(const fs::path& path, int keep, std::ostream& out) {
  std::error_code failure;
  if (!fs::exists(path, failure)) return absl::NotFoundError(path.string() + " does not exist");
  const auto deleted =
      files::prune_checkpoints(files::posix_file_system(), checkpoints_of(path), keep);
  if (!deleted.ok()) return deleted.status();
  for (const fs::path& directory : *deleted) out << "deleted " << directory.string() << "\n";
  return 0;
}

}  // namespace

CheckpointCommand::CheckpointCommand(flags::Command& program)
    : command_(program.command("checkpoint", "list, check and convert checkpoints")),
      list_(command_.command("list", "one line for each checkpoint")),
      show_(command_.command("show", "what a checkpoint holds")),
      verify_(
          command_.command("verify", "compare every checksum; exit 1 and name what is damaged")),
      hash_(command_.command("hash", "a hash over the model's parameters, however sharded")),
      diff_(command_.command("diff", "compare two checkpoints; exit 1 where any bit differs")),
      export_(command_.command("export", "write the model's weights as one safetensors file")),
      prune_(command_.command("prune", "delete all but the newest")) {
  for (flags::Command* command : {&list_, &show_, &verify_, &hash_, &diff_, &export_, &prune_}) {
    command->argument({.name = "DIR",
                       .help = "a checkpoint, or the directory that holds them (its newest)",
                       .required = true},
                      directory_);
  }
  diff_.argument({.name = "OTHER", .help = "what to compare with", .required = true}, other_);
  export_.add({.name = "--to", .help = "the file to write", .value = "FILE", .required = true},
              to_);
  prune_.add(
      {.name = "--keep", .help = "how many to keep", .value = "N", .minimum = 1, .required = true},
      keep_);
}

int CheckpointCommand::run(std::ostream& out, std::ostream& error) {
  const auto act = [&]() -> absl::StatusOr<int> {
    if (list_.chosen()) return list(directory_, out);
    if (show_.chosen()) return show(directory_, out, error);
    if (verify_.chosen()) return verify(directory_, out, error);
    if (hash_.chosen()) return hash(directory_, out, error);
    if (diff_.chosen()) return diff(directory_, other_, out, error);
    if (export_.chosen()) return export_to(directory_, to_, out, error);
    return prune(directory_, keep_, out);
  };
  const auto exit_code = act();
  if (exit_code.ok()) return *exit_code;
  error << "lockstep checkpoint: " << exit_code.status().message() << "\n";
  return 1;
}

}  // namespace lockstep::supervise
