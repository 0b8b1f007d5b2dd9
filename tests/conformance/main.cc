// conformance [OPTION…] DIR…: replays the recorded cases below the directories and compares values,
// gradients and states with what was recorded. README.md beside this file describes the cases.
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "conformance/gradients.h"
#include "conformance/misuse.h"
#include "conformance/replay.h"
#include "lockstep/launcher/flags/flags.h"
#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/context.h"

namespace lockstep::conformance {
namespace {

struct Options {
  enum class Mode { replay, gradcheck, misuse } mode = Mode::replay;
  std::string filter;
  bool list = false;
  bool verbose = false;
  std::vector<std::string> directories;
};

void replay(const Case& recorded, const OpTable& table, Failures& failures) {
  if (recorded.kind == "op") return replay_op(recorded, table, failures);
  if (recorded.kind == "optimizer") return replay_optimizer(recorded, failures);
  if (recorded.kind == "schedule") return replay_schedule(recorded, failures);
  if (recorded.kind == "module") return replay_module(recorded, failures);
  fail({"cases of the kind '", recorded.kind, "' are unknown"});
}

class Runner {
 public:
  explicit Runner(const Options& options) : options_(options), table_(op_table()) {}

  // The exit code.
  int run() {
    int cases = 0, failed = 0;
    for (const auto& path : find_cases(options_.directories)) {
      if (path.string().find(options_.filter) == std::string::npos) continue;
      if (options_.list) {
        std::printf("%s\n", path.c_str());
        continue;
      }
      const Failures failures = guarded(path.string(), [&](Failures& found) {
        ++cases;
        const Case recorded = read_case(path);
        if (!applies(recorded)) {
          --cases;
          return;
        }
        if (options_.verbose) std::printf("%s\n", path.c_str());
        one(recorded, found);
      });
      for (const std::string& failure : failures) std::printf("%s\n", failure.c_str());
      std::fflush(stdout);
      failed += failures.empty() ? 0 : 1;
    }
    if (options_.list) return 0;
    std::printf("%d passed, %d failed, 0 skipped\n", cases - failed, failed);
    return failed == 0 && cases > 0 ? 0 : 1;
  }

 private:
  bool applies(const Case& recorded) const {
    switch (options_.mode) {
      case Options::Mode::replay: return true;
      case Options::Mode::gradcheck: return has_checkable_gradients(recorded);
      case Options::Mode::misuse: return recorded.kind == "op";
    }
    return false;
  }

  void one(const Case& recorded, Failures& failures) const {
    switch (options_.mode) {
      case Options::Mode::replay: return replay(recorded, table_, failures);
      case Options::Mode::gradcheck: return check_gradients(recorded, table_, failures);
      case Options::Mode::misuse: return check_misuse(recorded, table_, failures);
    }
  }

  // What `body` found, and what escaped from it.
  static Failures guarded(const std::string& file, const std::function<void(Failures&)>& body) {
    Failures failures;
    try {
      body(failures);
    } catch (const Error& error) {
      failures.push_back(file + ": " + error.what());
    } catch (const std::exception& error) {
      failures.push_back(file + ": escaped, and is no lockstep::Error: " + error.what());
    }
    return failures;
  }

  const Options& options_;
  OpTable table_;
};

}  // namespace
}  // namespace lockstep::conformance

int main(int argc, char** argv) {
  using namespace lockstep;
  conformance::Options options;
  bool gradcheck = false, misuse = false;
  std::string device = "cpu";
  flags::Command command("conformance",
                         "Replays the recorded cases below the directories and compares values, "
                         "gradients and states with what was recorded.");
  command.add({"--device", "where to compute", "", {"cpu", "cuda"}}, device);
  command.add({"--filter", "only the cases whose path contains it", "TEXT"}, options.filter);
  command.add({"--gradcheck", "hold the ops' gradients against finite differences instead"},
              gradcheck);
  command.add({"--misuse", "call the ops with wrong arguments instead: errors, no crashes"},
              misuse);
  command.add({"--list", "print the cases and end"}, options.list);
  command.add({"--verbose", "print each case before it runs"}, options.verbose);
  command.rest(
      {.name = "DIR", .help = "folders with *.safetensors cases, at any depth", .required = true},
      options.directories);
  if (const auto code = command.parse_or_print(argc, argv)) return *code;
  using Mode = conformance::Options::Mode;
  options.mode = misuse ? Mode::misuse : gradcheck ? Mode::gradcheck : Mode::replay;
  try {
    if (device == "cuda") context().device = {DeviceKind::cuda, 0};
    backend_of(context().device);
    return conformance::Runner(options).run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "conformance: %s\n", error.what());
    return 1;
  }
}
