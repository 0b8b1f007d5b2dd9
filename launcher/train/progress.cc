#include "lockstep/launcher/train/progress.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace lockstep::train {
namespace {

std::string clock_text(double seconds) {
  char text[32];
  const int64_t whole = static_cast<int64_t>(seconds + 0.5);
  if (whole >= 3600) {
    std::snprintf(text, sizeof text, "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
  } else {
    std::snprintf(text, sizeof text, "%ld:%02ld", whole / 60, whole % 60);
  }
  return text;
}

}  // namespace

Progress::Progress(bool show, bool under_launcher, int64_t first_step, int64_t steps)
    : form_(Form::off), first_step_(first_step), steps_(steps) {
  if (!show) return;
  const char* set = std::getenv("LOCKSTEP_PROGRESS");
  const std::string_view wish = set != nullptr ? set : "";
  if (wish == "off") return;
  const bool terminal =
      wish == "terminal" || (wish != "plain" && !under_launcher && isatty(1) != 0);
  form_ = terminal ? Form::terminal : Form::plain;
}

void Progress::step(int64_t step, double loss, double tokens_per_second,
                    double samples_per_second) {
  if (form_ == Form::off) return;
  const Clock::time_point now = Clock::now();
  const auto pause =
      form_ == Form::terminal ? std::chrono::milliseconds(100) : std::chrono::milliseconds(5000);
  const bool edge = step == steps_ || step == first_step_ + 1;
  if (!edge && now - last_ < pause) return;
  last_ = now;
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const double left =
      elapsed / static_cast<double>(step - first_step_) * static_cast<double>(steps_ - step);
  const bool tokens = tokens_per_second > 0;
  char line[160];
  std::snprintf(line, sizeof line, "step %ld/%ld  loss %.4f  %.0f %s/s  %s left", step, steps_,
                loss, tokens ? tokens_per_second : samples_per_second,
                tokens ? "tokens" : "samples", clock_text(left).c_str());
  if (form_ == Form::terminal) {
    std::printf("\r\033[K%s", line);
    line_open_ = true;
    if (step == steps_) note("");
  } else {
    std::printf("%s\n", line);
  }
  std::fflush(stdout);
}

void Progress::note(const std::string& line) {
  if (form_ == Form::off) return;
  if (line_open_) std::printf("\n");
  line_open_ = false;
  if (!line.empty()) std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

}  // namespace lockstep::train
