#include "lockstep/launcher/supervise/run_command.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "lockstep/launcher/supervise/child.h"
#include "lockstep/launcher/supervise/command_line.h"
#include "lockstep/launcher/supervise/environment.h"
#include "lockstep/launcher/supervise/job.h"
#include "lockstep/launcher/supervise/rank_main.h"
#include "lockstep/launcher/supervise/rank_output.h"
#include "lockstep/launcher/supervise/store_process.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::supervise {
namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;

int complain(const std::string& problem, int exit_code) {
  std::fprintf(stderr, "lockstep run: %s\n", problem.c_str());
  return exit_code;
}

int complain(const absl::Status& status) {
  const bool usage = status.code() == absl::StatusCode::kInvalidArgument;
  return complain(std::string(status.message()), usage ? kUsage : kFailed);
}

bool is_assignment(const std::string& text) { return text.find('=', 1) != std::string::npos; }

// Of a rank: two pipes and a log here, a few more in mpirun; and others.
uint64_t descriptors_for(int ranks) { return 8 * static_cast<uint64_t>(ranks) + 256; }

// A pipe into which each rank puts its process id when it has come to life.
struct Started {
  int ends[2] = {-1, -1};
  Started() {
    if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) ends[0] = ends[1] = -1;
  }
  ~Started() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
};

void explain(int exit_code, RankOutput& output) {
  if (exit_code <= 128) return;
  output.say("the job ended by signal " + std::to_string(exit_code - 128) + " (" +
             ::strsignal(exit_code - 128) + ")");
}

}  // namespace

RunCommand::RunCommand(flags::Command& program)
    : command_(program.command("run", "run a program on N ranks of this machine")) {
  command_.group("Ranks");
  command_.add({.name = "-n,--ranks", .help = "how many", .minimum = 1, .maximum = 4096}, ranks_);
  command_.add({.name = "--oversubscribe", .help = "more ranks than CPUs are meant: no warning"},
               oversubscribe_);
  command_.add({.name = "--bind",
                .help = "give each rank an equal share of the cores for its own",
                .choices = {"cores", "none"}},
               bind_);
  command_.add({.name = "--env",
                .help = "set a variable for the ranks (may be given many times)",
                .value = "NAME=VALUE"},
               environment_);
  command_.group("Output");
  command_.add(
      {.name = "--prefix-output", .help = "\"[rank] \" before each line", .choices = {"on", "off"}},
      prefix_output_);
  command_.add({.name = "--log-dir",
                .help = "append each rank's output to DIR/rank-N.log, too",
                .value = "DIR"},
               log_directory_);
  command_.group("Control");
  command_.add({.name = "--grace",
                .help = "time to save after a request to stop",
                .value = "DURATION",
                .minimum = 0},
               grace_);
  command_.add({.name = "--dry-run", .help = "print the command, start nothing"}, dry_run_);
  command_.rest({.name = "PROGRAM ARG...", .help = "what each rank runs", .required = true},
                program_);
  command_.page("--help-environment", "list the environment variables and end", environment_help());
  command_.epilogue(
      "SIGTERM, SIGINT, SIGUSR1 and SIGHUP (not under nohup) ask the ranks to finish the step,\n"
      "save and exit with 75; a second one, but not a SIGHUP, kills them. The exit code is the\n"
      "job's; 128+N when signal N ended it.");
}

int RunCommand::run() {
  for (const std::string& assignment : environment_) {
    if (!is_assignment(assignment)) {
      return complain("--env: '" + assignment + "' is not NAME=VALUE", kUsage);
    }
  }
  const auto found = find_program(program_[0]);
  if (!found.ok()) return complain(found.status());
  std::vector<std::string> program = program_;
  program[0] = found->string();

  std::vector<std::string> launcher;
  if (ranks_ > 1) {
    auto words = mpirun_words({.ranks = ranks_, .bind_to_cores = bind_ == "cores"});
    if (!words.ok()) return complain(words.status());
    launcher = *std::move(words);
    if (ranks_ > available_cpus() && !oversubscribe_) {
      complain(std::to_string(ranks_) + " ranks share " + std::to_string(available_cpus()) +
                   " CPUs: expect it to be slow (--oversubscribe hides this)",
               0);
    }
  }
  if (!dry_run_) return start(launcher, program);

  std::vector<std::string> words;
  if (!environment_.empty()) words.push_back("env");
  words.insert(words.end(), environment_.begin(), environment_.end());
  words.insert(words.end(), launcher.begin(), launcher.end());
  words.insert(words.end(), program.begin(), program.end());
  std::printf("%s\n", quoted(words).c_str());
  return 0;
}

bool RunCommand::has_store() const {
  return std::getenv("LOCKSTEP_STORE") != nullptr ||
         std::ranges::any_of(environment_, [](const std::string& assignment) {
           return assignment.starts_with("LOCKSTEP_STORE=");
         });
}

int RunCommand::start(const std::vector<std::string>& launcher,
                      const std::vector<std::string>& program) {
  const bool is_rank = launcher.empty();
  Job::hold_signals();
  std::unique_ptr<StoreProcess> store;
  if (!is_rank && !has_store()) {
    auto started = StoreProcess::start(ranks_);
    if (!started.ok()) {
      return complain("the job's store: " + std::string(started.status().message()), kFailed);
    }
    store = *std::move(started);
  }
  const uint64_t limit = is_rank ? 0 : raise_descriptor_limit(descriptors_for(ranks_));
  const auto output = RankOutput::create(
      {.ranks = ranks_, .prefix = prefix_output_ == "on", .log_directory = log_directory_});
  if (!output.ok()) return complain(output.status());
  const Started started;
  ChildOptions options{.words = launcher};
  if (store) options.environment = store->environment();
  options.environment.insert(options.environment.end(), environment_.begin(), environment_.end());
  if (is_rank) {
    options.output = (*output)->write_end(0, RankOutput::kOutput);
    options.error = (*output)->write_end(0, RankOutput::kError);
  } else {
    const auto words = rank_words(**output, ranks_, started.ends[1], limit);
    options.words.insert(options.words.end(), words.begin(), words.end());
  }
  options.words.insert(options.words.end(), program.begin(), program.end());

  Job job(grace_, **output);
  if (!is_rank) job.expect(ranks_, started.ends[0]);
  const auto child = start_child(options);
  if (!child.ok()) return complain(child.status());
  int exit_code = job.watch(*child, is_rank);
  if (!is_rank && exit_code != 0 && job.started() == 0 && !job.was_killed()) {
    std::vector<std::string> words = launcher;
    std::erase(words, "-q");
    words.push_back("true");
    (*output)->say("mpirun could not start any rank (it returned " + std::to_string(exit_code) +
                   "); this shows why: " + quoted(words));
    exit_code = kFailed;
  }
  explain(exit_code, **output);
  job.finish_output();
  return exit_code;
}

}  // namespace lockstep::supervise
