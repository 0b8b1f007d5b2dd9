#include <cstdio>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "lockstep/launcher/flags/flags.h"
#include "lockstep/launcher/supervise/checkpoint_command.h"
#include "lockstep/launcher/supervise/rank_main.h"
#include "lockstep/launcher/supervise/run_command.h"
#include "lockstep/runtime/version.h"

namespace lockstep::supervise {
namespace {

int run(int argc, const char* const* argv) {
  const std::vector<std::string> words(argv + std::min(argc, 1), argv + argc);
  if (!words.empty() && words[0] == kRankCommand) return rank_main(std::span(words).subspan(1));

  flags::Command program("lockstep", "Runs and looks after distributed training jobs.");
  RunCommand run_command(program);
  CheckpointCommand checkpoint_command(program);
  const flags::Command& version_command = program.command("version", "print the version");
  const auto ended = program.parse_or_print(argc, argv);
  if (ended) return *ended;
  if (run_command.chosen()) return run_command.run();
  if (checkpoint_command.chosen()) return checkpoint_command.run(std::cout, std::cerr);
  if (version_command.chosen()) std::cout << "lockstep " << version() << "\n";
  return 0;
}

}  // namespace
}  // namespace lockstep::supervise

int main(int argc, char** argv) {
  try {
    return lockstep::supervise::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "lockstep: %s\n", error.what());
    return 1;
  }
}
