#pragma once

#include <functional>
#include <string>

#include "lockstep/launcher/train/trainer.h"

namespace lockstep::flags {
class Command;
}

namespace lockstep::train {

// Exit code of a run that stopped on request with everything saved.
inline constexpr int kStoppedExitCode = 75;

// A training program: its flags beside the trainer's, its place in the world, and its end. The one
// place where a rank's failure becomes the process's exit code.
struct Program {
  std::string name;
  std::string summary;
  TrainOptions options = {};  // the program's defaults
  // Adds the program's own flags.
  std::function<void(flags::Command&)> add_flags = {};
  // The job. Runs on every rank once the communicator stands; returns the exit code.
  std::function<int(Session)> body = {};

  int run(int argc, char** argv);
};

// The exit code for how a trainer's run ended.
inline int exit_code(Outcome outcome) { return outcome == Outcome::stopped ? kStoppedExitCode : 0; }

}  // namespace lockstep::train
