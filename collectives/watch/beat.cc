#include "lockstep/collectives/watch/beat.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "lockstep/runtime/error.h"

namespace lockstep {
namespace {

std::string seconds(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f s", value);
  return text;
}

}  // namespace

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string Beat::to_text() const {
  return nlohmann::json{{"count", count},
                        {"time", time},
                        {"step", step},
                        {"phase", phase},
                        {"phase_seconds", phase_seconds},
                        {"allowed_seconds", allowed_seconds},
                        {"sequence", sequence},
                        {"collective", collective},
                        {"state", state},
                        {"collective_seconds", collective_seconds},
                        {"begun", begun}}
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::optional<Beat> Beat::parse(std::string_view text) {
  try {
    const auto json = nlohmann::json::parse(text);
    Beat beat;
    json.at("count").get_to(beat.count);
    json.at("time").get_to(beat.time);
    json.at("step").get_to(beat.step);
    json.at("phase").get_to(beat.phase);
    json.at("phase_seconds").get_to(beat.phase_seconds);
    json.at("allowed_seconds").get_to(beat.allowed_seconds);
    json.at("sequence").get_to(beat.sequence);
    json.at("collective").get_to(beat.collective);
    json.at("state").get_to(beat.state);
    json.at("collective_seconds").get_to(beat.collective_seconds);
    json.at("begun").get_to(beat.begun);
    return beat;
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

std::string Beat::describe() const {
  const double age = std::max(0.0, seconds_since_1970() - time);
  std::string text =
      concat({"in step ", step, ", phase ", phase, " for ", seconds(phase_seconds + age)});
  if (collective.empty()) return text + "; it has begun no collective";
  text += concat({"; its last collective, #", sequence, " ", collective, ", is ", state, " since ",
                  seconds(collective_seconds + age)});
  if (state != "queued" || begun == sequence) return text;
  return text +
         (begun == 0 ? ", and none has begun" : concat({", and the last begun is #", begun}));
}

}  // namespace lockstep
