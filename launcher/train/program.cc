#include "lockstep/launcher/train/program.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iostream>

#include "lockstep/launcher/flags/flags.h"
#include "lockstep/launcher/train/agreement.h"
#include "lockstep/launcher/train/job_watch.h"
#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::train {
namespace {

// Leaves a job that is broken: other threads may hang in a collective that will never end, so no
// destructor runs. The one caller of _exit outside signal handlers.
[[noreturn]] void end_job(int code) {
  std::fflush(nullptr);
  std::cout.flush();
  _exit(code);
}

void report(const std::string& program, const std::string& message) {
  std::fprintf(stderr, "%s: %s\n", program.c_str(), message.c_str());
  std::fflush(stderr);
}

void apply_machine_options(const TrainOptions& options, const World& world) {
  context().threads =
      options.threads > 0 ? options.threads : std::max(1, available_cpus() / world.local_size);
  if (options.memory_limit.empty()) return;
  if (const auto limit = flags::parse_size(options.memory_limit)) {
    backend_of({}).set_limit(*limit);
  }
}

// Where `mpirun` ends a job at its first non-zero exit, ranks leave together.
int run_body(const Program& program, Session session, JobWatch& watch) {
  int code = 1;
  try {
    code = program.body(session);
  } catch (const AgreedFailure& failure) {
    if (session.world.rank == 0) report(program.name, failure.what());
    code = failure.exit_code();
  } catch (const std::exception& failure) {
    // First: the launcher ends all ranks when one of them has ended.
    report(program.name, concat({"rank ", session.world.rank, ": ", failure.what()}));
    watch.fail(failure.what());
    end_job(1);
  }
  try {
    // The store ends with its host: only when nobody watches any more.
    session.communicator.barrier({.what = "exit"}).wait();
    watch.leave();
    session.communicator.barrier({.what = "exit"}).wait();
  } catch (const std::exception& failure) {
    // Where the body has failed, the reason has been told.
    if (code == 0)
      report(program.name, concat({"rank ", session.world.rank, ": ", failure.what()}));
    if (code == 0) code = 1;
  }
  if (code != 0 && session.world.size > 1) end_job(code);
  return code;
}

}  // namespace

int Program::run(int argc, char** argv) {
  flags::Command command(name, summary);
  if (add_flags) add_flags(command);
  options.add_to(command);
  if (const auto code = command.parse_or_print(argc, argv)) return *code;
  try {
    const World world = World::from_env();
    apply_machine_options(options, world);
    const std::unique_ptr<Communicator> communicator = make_communicator(world);
    communicator->set_timeout(options.timeout);
    JobWatch watch(*communicator, world,
                   {.timeout = options.timeout,
                    .flight_directory = options.run_dir,
                    .end_process = [&](const std::string& reason) {
                      report(name, concat({"rank ", world.rank, ": ", reason}));
                      end_job(1);
                    }});
    return run_body(*this, {world, *communicator, options, watch.watch()}, watch);
  } catch (const UsageError& usage) {
    report(name, usage.what());
    return 2;
  } catch (const std::exception& failure) {
    report(name, failure.what());
    return 1;
  }
}

}  // namespace lockstep::train
