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
  Runner(const Options& options, Device device)
      : options_(options), device_(device), table_(op_table()) {}

  // The exit code.
  int run() {
    std::vector<std::filesystem::path> files;
    for (const auto& path : find_cases(options_.directories)) {
      if (path.string().find(options_.filter) != std::string::npos) files.push_back(path);
    }
    if (options_.list) {
      for (const auto& path : files) std::printf("%s\n", path.c_str());
      return 0;
    }
    if (options_.mode == Options::Mode::misuse) {
      misuse(files);
    } else {
      context().device = device_;
      for (const auto& path : files) here(path);
    }
    std::printf("%d passed, %d failed, 0 skipped\n", cases_ - failed_, failed_);
    return failed_ == 0 && cases_ > 0 ? 0 : 1;
  }

 private:
  void misuse(const std::vector<std::filesystem::path>& files) {
    std::vector<std::filesystem::path> ops;
    for (const auto& path : files) {
      const Failures failures = guarded(path.string(), [&](Failures& found) {
        const Case recorded = read_case(path);
        if (recorded.kind != "op") return;
        if (table_.contains(recorded.name)) return ops.push_back(path);
        found.push_back(path.string() + ": no op of the name '" + recorded.name + "' in the table");
      });
      if (!failures.empty()) count(path, failures);
    }
    check_misuse(ops, table_, device_,
                 [&](size_t i, const Failures& failures) { count(ops[i], failures); });
  }

  void here(const std::filesystem::path& path) {
    bool applies = true;
    const Failures failures = guarded(path.string(), [&](Failures& found) {
      const Case recorded = read_case(path);
      const bool gradients = options_.mode == Options::Mode::gradcheck;
      applies = !gradients || has_checkable_gradients(recorded);
      if (!applies) return;
      if (options_.verbose) std::printf("%s\n", path.c_str());
      gradients ? check_gradients(recorded, table_, found) : replay(recorded, table_, found);
    });
    if (applies) count(path, failures);
  }

  void count(const std::filesystem::path& path, const Failures& failures) {
    ++cases_;
    failed_ += failures.empty() ? 0 : 1;
    if (options_.verbose && options_.mode == Options::Mode::misuse) {
      std::printf("%s\n", path.c_str());
    }
    for (const std::string& failure : failures) std::printf("%s\n", failure.c_str());
    std::fflush(stdout);
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
  Device device_;
  OpTable table_;
  int cases_ = 0, failed_ = 0;
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
    const Device where{device == "cuda" ? DeviceKind::cuda : DeviceKind::cpu, 0};
    if (options.mode != Mode::misuse) backend_of(where);
    return conformance::Runner(options, where).run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "conformance: %s\n", error.what());
    return 1;
  }
}
