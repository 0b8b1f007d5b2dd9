// Every collective × dtype × size, in place and not, on slices and in bucket memory: checks each
// result and times it. Under `lockstep run`, mpirun, or plain RANK variables.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "benchmark/collectives/timing.h"
#include "lockstep/collectives/world.h"
#include "lockstep/launcher/flags/flags.h"
#include "lockstep/launcher/train/device.h"
#include "lockstep/runtime/context.h"

namespace lockstep::benchmark {
namespace {

using Json = nlohmann::ordered_json;

constexpr Call kCalls[] = {Call::all_reduce, Call::reduce_scatter, Call::all_gather,
                           Call::broadcast};
constexpr DType kDTypes[] = {DType::f64, DType::f32, DType::bf16, DType::f16,
                             DType::i64, DType::i32, DType::u8};
constexpr int64_t kSmallest = 4, kFactor = 8;
constexpr int64_t kMostBytesOfAllReductions = 1 << 20;

struct Flags {
  std::string device = "auto";
  std::string largest = "1GiB";
  std::vector<std::string> dtypes;
  std::filesystem::path json;
  std::chrono::milliseconds timeout = std::chrono::seconds(60);
  bool no_timing = false;
  bool quiet = false;
  bool spoil = false;
};

bool takes_slices(Call call) { return call == Call::reduce_scatter || call == Call::all_gather; }

// 4 bytes, 32, 256, … and the largest.
std::vector<int64_t> sizes_up_to(int64_t largest) {
  std::vector<int64_t> sizes;
  for (int64_t size = kSmallest; size < largest; size *= kFactor) sizes.push_back(size);
  sizes.push_back(largest);
  return sizes;
}

class Run {
 public:
  Run(const Flags& flags, Communicator& communicator)
      : flags_(flags),
        communicator_(communicator),
        largest_(flags::parse_size(flags.largest).value()),
        memory_(communicator, largest_),
        checks_(communicator, memory_) {
    for (const DType dtype : kDTypes) {
      if (flags.dtypes.empty() || std::ranges::count(flags.dtypes, name_of(dtype)) > 0) {
        dtypes_.push_back(dtype);
      }
    }
    if (flags.spoil && communicator.rank() == communicator.size() - 1) checks_.spoil_next();
    if (!flags.json.empty() && communicator.rank() == 0) json_.emplace(flags.json);
  }

  // How many ranks' results were wrong.
  int64_t run() {
    const auto begin = std::chrono::steady_clock::now();
    const auto seconds = [&] {
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    };
    for (const DType dtype : dtypes_) {
      for (const int64_t bytes : sizes_up_to(largest_)) check_size(dtype, bytes);
    }
    check_parts();
    const double checked_after = seconds();
    if (!flags_.no_timing) time_all();
    const Array wrong = Array::from({checks_.wrong()}, {1});
    communicator_.all_reduce(wrong, ReduceOp::sum, {.what = "verdict"}).wait();
    const int64_t total = wrong.data<int64_t>()[0];
    if (communicator_.rank() == 0) {
      const Json summary{{"checked", checks_.checked()},   {"wrong", total},
                         {"ranks", communicator_.size()},  {"backend", communicator_.backend()},
                         {"check_seconds", checked_after}, {"seconds", seconds()}};
      write(summary);
      std::printf("%s\n", summary.dump().c_str());
    }
    return total;
  }

 private:
  void check_size(DType dtype, int64_t bytes) {
    for (const Call call : kCalls) {
      for (const Place place : {Place::plain, Place::slice, Place::bucket, Place::host}) {
        if (place == Place::host && communicator_.device() == Device()) continue;
        if (place == Place::host && bytes > kMostHostBytes) continue;
        for (const bool in_place : {true, false}) {
          if (!in_place && !takes_slices(call)) continue;
          check_reductions({call, dtype, bytes, place, in_place});
        }
      }
    }
  }

  void check_reductions(Case of) {
    if (of.call == Call::all_gather) return checks_.check(of);
    if (of.call == Call::broadcast) {
      checks_.check(of);
      of.root = communicator_.size() - 1;
      return checks_.check(of);
    }
    for (const ReduceOp reduction : {ReduceOp::sum, ReduceOp::mean, ReduceOp::max, ReduceOp::min}) {
      if (reduction == ReduceOp::mean && !is_floating(of.dtype)) continue;
      if (reduction >= ReduceOp::max && of.bytes > kMostBytesOfAllReductions) continue;
      of.reduction = reduction;
      checks_.check(of);
    }
  }

  // Even and odd ranks each for themselves, both at once; then everybody.
  void check_parts() {
    const int rank = communicator_.rank();
    const auto part = communicator_.split(rank % 2, rank);
    std::vector<int> members;
    for (int each = rank % 2; each < communicator_.size(); each += 2) members.push_back(each);
    for (const DType dtype : dtypes_) {
      for (const int64_t bytes : sizes_up_to(std::min<int64_t>(largest_, 64 << 20))) {
        for (const Call call : kCalls) checks_.check({call, dtype, bytes}, *part, members);
        checks_.check({Call::all_reduce, dtype, bytes});
      }
    }
  }

  void time_all() {
    for (const Call call : kCalls) {
      time_call(call, Place::plain, true);
      if (takes_slices(call)) time_call(call, Place::plain, false);
      if (call != Call::broadcast) time_call(call, Place::bucket, true);
    }
  }

  void time_call(Call call, Place place, bool in_place) {
    const bool tells = communicator_.rank() == 0, prints = tells && !flags_.quiet;
    if (prints) {
      std::printf("\n%s, %s%s: bus bandwidth in GB/s, and us\n%12s", name_of(call), name_of(place),
                  takes_slices(call) ? in_place ? ", in place" : ", not in place" : "", "bytes");
      for (const DType dtype : dtypes_) {
        std::printf("%17s", std::string(name_of(dtype)).c_str());
      }
      std::printf("\n");
    }
    for (const int64_t bytes : sizes_up_to(largest_)) {
      if (prints) std::printf("%12lld", static_cast<long long>(bytes));
      for (const DType dtype : dtypes_) {
        const Case of{call, dtype, bytes, place, in_place};
        const Timing timing = time_calls(of, communicator_, memory_);
        const Bandwidth found = bandwidth(of, communicator_.size(), timing.seconds);
        if (prints) std::printf("%8.2f %8.1f", found.bus / 1e9, timing.seconds * 1e6);
        write({{"collective", name_of(call)},
               {"dtype", name_of(dtype)},
               {"bytes", bytes},
               {"place", name_of(place)},
               {"in_place", in_place},
               {"ranks", communicator_.size()},
               {"seconds", timing.seconds},
               {"own_seconds", timing.own},
               {"algorithm_bandwidth", found.algorithm},
               {"bus_bandwidth", found.bus}});
      }
      if (prints) std::printf("\n");
      std::fflush(stdout);
    }
  }

  // At once: what has been measured before something goes wrong is worth reading.
  void write(const Json& line) {
    if (json_) *json_ << line.dump() << std::endl;
  }

  const Flags& flags_;
  Communicator& communicator_;
  const int64_t largest_;
  Memory memory_;
  Checks checks_;
  std::vector<DType> dtypes_;
  std::optional<std::ofstream> json_;
};

int run(int argc, char** argv) {
  Flags flags;
  flags::Command command("collectives_benchmark",
                         "Checks and times every collective, as the ranks that were started.");
  command.group("Calls");
  command.add({.name = "--device", .help = "where arrays lie", .choices = {"auto", "cpu", "cuda"}},
              flags.device);
  command.add({.name = "--largest", .help = "of all ranks' slices together", .value = "SIZE"},
              flags.largest);
  command.add({.name = "--dtype", .help = "only this one (may be given many times)"}, flags.dtypes);
  command.add({.name = "--no-timing", .help = "checks alone"}, flags.no_timing);
  command.add({.name = "--spoil", .help = "one result is made wrong, which must be found"},
              flags.spoil);
  command.add({.name = "--timeout", .help = "longest a collective may take", .value = "TIME"},
              flags.timeout);
  command.group("Output");
  command.add({.name = "--json", .help = "a line for each time", .value = "FILE"}, flags.json);
  command.add({.name = "--quiet", .help = "no tables"}, flags.quiet);
  if (const auto code = command.parse_or_print(argc, argv)) return *code;
  if (flags::parse_size(flags.largest).value_or(0) < kSmallest) {
    fail_usage({"--largest is '", flags.largest, "', expected a size such as 64MiB"});
  }
  for (const std::string& dtype : flags.dtypes) {
    if (std::ranges::none_of(kDTypes, [&](DType each) { return name_of(each) == dtype; })) {
      fail_usage({"--dtype is '", dtype, "', which no collective has"});
    }
  }
  const World world = World::from_env();
  context().device = train::choose_device(flags.device, world);
  const auto communicator = make_communicator(world, context().device, flags.timeout);
  const int64_t wrong = Run(flags, *communicator).run();
  communicator->barrier({.what = "end"}).wait();
  return wrong == 0 ? 0 : 1;
}

}  // namespace
}  // namespace lockstep::benchmark

int main(int argc, char** argv) {
  try {
    return lockstep::benchmark::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "collectives_benchmark: %s\n", error.what());
    std::fflush(nullptr);
    std::_Exit(1);  // other ranks may wait for ever
  }
}
