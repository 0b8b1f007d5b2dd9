#include "lockstep/launcher/train/metrics.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "lockstep/launcher/train/status.h"

namespace lockstep::train {
namespace {

using Json = nlohmann::ordered_json;

// JSON has no NaN: the library writes null.
void append(files::WritableFile& file, const Json& json) { check(file.append(json.dump() + "\n")); }

// What a run that was killed, or found the disk full, may have left.
bool ends_within_a_line(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file || file.tellg() <= 0) return false;
  file.seekg(-1, std::ios::end);
  return file.get() != '\n';
}

}  // namespace

Metrics::Metrics(files::FileSystem& file_system, const std::filesystem::path& path) {
  if (path.empty()) return;
  if (path.has_parent_path()) check(file_system.create_directories(path.parent_path()));
  const bool torn = ends_within_a_line(path);
  file_ = take(file_system.open(path, files::OpenMode::append));
  if (torn) check(file_->append("\n"));
}

void Metrics::step(const StepMetrics& m) {
  if (!file_) return;
  Json json{{"event", "step"},
            {"step", m.step},
            {"loss", m.loss},
            {"learning_rate", m.learning_rate},
            {"gradient_norm", m.gradient_norm},
            {"samples_per_second", m.samples_per_second},
            {"tokens_per_second", m.tokens_per_second},
            {"seconds", m.seconds},
            {"time",
             {{"data", m.time.data},
              {"forward", m.time.forward},
              {"backward", m.time.backward},
              {"exposed_communication", m.time.exposed_communication},
              {"optimizer", m.time.optimizer},
              {"checkpoint", m.time.checkpoint}}},
            {"memory_bytes", m.memory_bytes}};
  if (m.loss_scale) json["loss_scale"] = *m.loss_scale;
  append(*file_, json);
  if (!std::isfinite(m.loss) || !std::isfinite(m.gradient_norm)) {
    event("not_finite",
          {{"step", m.step}, {"what", std::isfinite(m.loss) ? "gradient_norm" : "loss"}});
  }
}

void Metrics::event(std::string_view name,
                    std::initializer_list<std::pair<std::string_view, Value>> members) {
  if (!file_) return;
  Json json{{"event", name}};
  for (const auto& [key, value] : members) {
    std::visit([&, key = std::string(key)](const auto& held) { json[key] = held; }, value);
  }
  append(*file_, json);
}

}  // namespace lockstep::train
