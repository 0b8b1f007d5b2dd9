#include "lockstep/launcher/train/program.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <thread>

#include "lockstep/launcher/flags/flags.h"
#include "lockstep/launcher/train/agreement.h"
#include "lockstep/launcher/train/device.h"
#include "lockstep/launcher/train/job_watch.h"
#include "lockstep/launcher/train/signals.h"
#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/log.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::train {
namespace {

// For the ranks to say what they know: mpirun gives those that are left a second or two when one
// has ended, but kills them at once when more do.
constexpr std::chrono::milliseconds kToSpeak{500};

// Leaves a job that is broken: other threads may hang in a collective that will never end, so no
// destructor runs. The one caller of _exit outside signal handlers.
[[noreturn]] void end_job(int code, std::chrono::milliseconds after = {}) {
  std::this_thread::sleep_for(after);
  std::fflush(nullptr);
  std::cout.flush();
  _exit(code);
}

// Says why the program ends, once: the watch and the body may come to the same end.
class Reporter {
 public:
  explicit Reporter(const std::string& program) : program_(program) {}
  void operator()(const std::string& message) {
    if (has_reported_.exchange(true)) return;
    std::fprintf(stderr, "%s: %s\n", program_.c_str(), message.c_str());
    std::fflush(stderr);
  }

 private:
  const std::string& program_;
  std::atomic<bool> has_reported_{false};
};

// The defaults that the environment changes.
void read_environment(TrainOptions& options) {
  log_level();  // refuses what is no level
  const char* timeout = std::getenv("LOCKSTEP_TIMEOUT");
  if (timeout == nullptr || *timeout == '\0') return;
  const auto parsed = flags::parse_duration(timeout);
  if (!parsed) {
    fail_usage({"LOCKSTEP_TIMEOUT is '", timeout, "': expected a time such as 30s or 10m"});
  }
  options.timeout = *parsed;
}

void apply_machine_options(const TrainOptions& options, const World& world) {
  context().device = choose_device(options.device, world);
  Backend& backend = backend_of(context().device);
  if (const int64_t limit = options.memory_limit_bytes(); limit > 0) backend.set_limit(limit);
  if (const int64_t reserved = options.memory_reserve_bytes(); reserved > 0) {
    try {
      backend.reserve(reserved);
    } catch (const OutOfMemory& error) {
      throw OutOfMemory(concat({"--memory-reserve ", options.memory_reserve, ": ", error.what()}));
    }
  }
}

void choose_threads(const TrainOptions& options, const World& world) {
  context().threads =
      options.threads > 0 ? options.threads : std::max(1, available_cpus() / world.local_size);
  log(LogLevel::info, {"rank ", world.rank, " is one of ", world.local_size, " on this host, with ",
                       context().threads, " threads"});
}

// Where `mpirun` ends a job at its first non-zero exit, ranks leave together.
int run_body(const Program& program, Session session, JobWatch& watch, Reporter& report) {
  const int rank = session.world.rank;
  const Activity& activity = session.communicator.activity();
  const auto end = [&](const std::string& said, const std::string& told) {
    report(concat({"rank ", rank, ": ", said}));
    watch.fail(told);
    end_job(1, session.world.size > 1 ? kToSpeak : kToSpeak.zero());
  };
  int code = 1;
  try {
    code = program.body(session);
  } catch (const AgreedFailure& failure) {
    const Activity::Moment left = activity.now();
    const bool in_a_step = left.step > 0 && left.phase != Activity::Moment().phase;
    // What is wrong before or after the steps is about the job, and said once.
    if (rank == 0 || (in_a_step && failure.culprit() >= 0)) report(failure.what());
    if (in_a_step) watch.write_flight();
    code = failure.exit_code();
  } catch (const CollectiveError& failure) {
    end(failure.what(), failure.what());
  } catch (const std::exception& failure) {
    const std::string at = concat({activity.now().describe(), ": ", failure.what()});
    end(at, concat({"rank ", rank, " has failed in ", at}));
  }
  try {
    // The store ends with its host: only when nobody watches any more.
    session.communicator.barrier({.what = "exit"}).wait();
    watch.leave();
    session.communicator.barrier({.what = "exit"}).wait();
  } catch (const std::exception& failure) {
    // Where the body has failed, the reason has been told.
    if (code == 0) end(failure.what(), failure.what());
  }
  if (code != 0 && session.world.size > 1) end_job(code);
  return code;
}

}  // namespace

int Program::run(int argc, char** argv) {
  hold_stop_requests();
  Reporter report(name);
  World world;
  std::optional<DelayedTermination> delayed;  // until what went wrong has been said
  try {
    read_environment(options);
    flags::Command command(name, summary);
    if (add_flags) add_flags(command);
    options.add_to(command);
    if (const auto code = command.parse_or_print(argc, argv)) return *code;
    world = World::from_env();
    apply_machine_options(options, world);
    log(LogLevel::info,
        {"rank ", world.rank, " of ", world.size, " (", world.source, "), process ", getpid()});
    if (world.size > 1) delayed.emplace();
    const std::unique_ptr<Communicator> communicator =
        make_communicator(world, context().device, options.timeout);
    find_local_place(*communicator, world);
    choose_threads(options, world);
    JobWatch watch(*communicator, world,
                   {.timeout = options.timeout,
                    .flight_directory = options.run_dir,
                    .end_process = [&](const std::string& reason) {
                      report(concat({"rank ", world.rank, ": ", reason}));
                      end_job(1, kToSpeak);
                    }});
    return run_body(*this, {world, *communicator, options}, watch, report);
  } catch (const AgreedFailure& failure) {
    if (world.rank == 0) report(failure.what());
    return failure.exit_code();
  } catch (const UsageError& usage) {
    report(usage.what());
    return 2;
  } catch (const CollectiveError& failure) {
    report(concat({"rank ", world.rank, ": ", failure.what()}));
    end_job(1, kToSpeak);
  } catch (const std::exception& failure) {
    report(failure.what());
    return 1;
  }
}

}  // namespace lockstep::train
