#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "lockstep/runtime/files/file_system.h"

namespace lockstep::train {

// Where a step's seconds went, on rank 0: those of the device where there is one, but for data,
// communication and checkpoints, and passes while they are captured, which are the host's. A
// device's optimizer ends after the step's line is written: its time is that of the step before.
// What is replayed counts as backward.
struct StepTimes {
  double data = 0;
  double forward = 0;
  double backward = 0;
  double exposed_communication = 0;
  double optimizer = 0;
  double checkpoint = 0;  // that training waited
};

struct StepMetrics {
  int64_t step = 0;
  double loss = 0;
  double learning_rate = 0;
  double gradient_norm = 0;
  std::optional<double> loss_scale;  // that the gradients of the step had
  double samples_per_second = 0;
  double tokens_per_second = 0;
  double seconds = 0;
  StepTimes time;
  int64_t memory_bytes = 0;
};

// metrics.jsonl: one JSON object a line, flushed at each. A number that is not finite is written as
// null, with an event "not_finite" behind it.
class Metrics {
 public:
  using Value = std::variant<int64_t, double, std::string>;

  // Appends. An empty path: writes nothing.
  Metrics(files::FileSystem& file_system, const std::filesystem::path& path);

  void step(const StepMetrics& metrics);
  void event(std::string_view name,
             std::initializer_list<std::pair<std::string_view, Value>> members);

 private:
  std::unique_ptr<files::WritableFile> file_;
};

}  // namespace lockstep::train
