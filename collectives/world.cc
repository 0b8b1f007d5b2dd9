#include "lockstep/collectives/world.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>

#include "lockstep/collectives/nccl/meeting.h"

namespace lockstep {
namespace {

using Lookup = std::function<const char*(const char*)>;

// Job steps that srun did not launch for tasks (interactive, batch, extern) have ids from here on.
constexpr int64_t kFirstSpecialStep = 0xfffffff0;

// The names of one launcher's variables; null: it has none.
struct Variables {
  const char* rank;
  const char* size;
  const char* local_rank;
  const char* local_size;
};

constexpr Variables kBare{"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"};
constexpr Variables kOpenMpi{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                             "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"};
constexpr Variables kPmi{"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"};

// What one launcher's variables say; local numbers only where they say so.
struct Found {
  const char* source = nullptr;
  int64_t rank = 0;
  int64_t size = 1;
  std::optional<int64_t> local_rank;
  std::optional<int64_t> local_size;
};

std::string show(const char* name, int64_t value) { return concat({name, "=", value}); }

std::optional<int64_t> number(const Lookup& lookup, const char* name) {
  const char* text = name == nullptr ? nullptr : lookup(name);
  if (text == nullptr || *text == '\0') return std::nullopt;
  int64_t value = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, value);
  if (error != std::errc{} || stop != end || value < 0) {
    fail_usage({"the environment has ", name, "=", text, ", expected a number from 0"});
  }
  return value;
}

void check_place(const char* rank_name, int64_t rank, const char* size_name, int64_t size) {
  if (rank < size && size <= std::numeric_limits<int>::max()) return;
  fail_usage({"the environment contradicts itself: ", show(rank_name, rank), " and ",
              show(size_name, size)});
}

std::optional<Found> read(const Lookup& lookup, const Variables& names) {
  const std::optional<int64_t> rank = number(lookup, names.rank);
  const std::optional<int64_t> size = number(lookup, names.size);
  if (!rank && !size) return std::nullopt;
  if (!rank || !size) {
    fail_usage({"the environment has ", rank ? show(names.rank, *rank) : show(names.size, *size),
                " but no ", rank ? names.size : names.rank});
  }
  check_place(names.rank, *rank, names.size, *size);
  Found found{.source = names.rank, .rank = *rank, .size = *size};
  found.local_rank = number(lookup, names.local_rank);
  found.local_size = number(lookup, names.local_size);
  if (found.local_rank) {
    check_place(names.local_rank, *found.local_rank,
                found.local_size ? names.local_size : names.size, found.local_size.value_or(*size));
  }
  return found;
}

// The count of this host's tasks from, for example, SLURM_STEP_TASKS_PER_NODE=2(x3),1.
std::optional<int64_t> slurm_local_size(const Lookup& lookup) {
  const char* text = lookup("SLURM_STEP_TASKS_PER_NODE");
  if (text == nullptr) text = lookup("SLURM_TASKS_PER_NODE");
  std::optional<int64_t> node = number(lookup, "SLURM_NODEID");
  if (text == nullptr || !node) return std::nullopt;
  while (*text != '\0') {
    char* end = nullptr;
    const int64_t tasks = std::strtoll(text, &end, 10);
    if (end == text) return std::nullopt;
    int64_t nodes = 1;
    if (std::strncmp(end, "(x", 2) == 0) {
      nodes = std::strtoll(end + 2, &end, 10);
      if (*end == ')') ++end;
    }
    if (*node < nodes) return tasks;
    *node -= nodes;
    text = *end == ',' ? end + 1 : end;
  }
  return std::nullopt;
}

// A batch script has SLURM_NTASKS around a single process: only what srun started counts.
std::optional<Found> read_slurm(const Lookup& lookup) {
  const std::optional<int64_t> step = number(lookup, "SLURM_STEP_ID");
  if (!step || *step >= kFirstSpecialStep || lookup("SLURM_PROCID") == nullptr) return std::nullopt;
  const char* size_name =
      lookup("SLURM_STEP_NUM_TASKS") != nullptr ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS";
  std::optional<Found> found = read(lookup, {"SLURM_PROCID", size_name, "SLURM_LOCALID", nullptr});
  if (found) found->local_size = slurm_local_size(lookup);
  return found;
}

// PMIx gives a rank and leaves the size to its server; srun says it beside.
std::optional<Found> read_pmix(const Lookup& lookup) {
  const std::optional<int64_t> rank = number(lookup, "PMIX_RANK");
  if (!rank) return read(lookup, kPmi);
  std::optional<Found> found = read_slurm(lookup);
  if (!found) found = read(lookup, kPmi);
  if (!found) fail_usage({"the environment has ", show("PMIX_RANK", *rank), " but no world size"});
  if (found->rank != *rank) {
    fail_usage({"the environment contradicts itself: ", show("PMIX_RANK", *rank), " and ",
                show(found->source, found->rank)});
  }
  found->source = "PMIX_RANK";
  return found;
}

void check_agreement(const Found& a, const Variables& a_names, const Found& b,
                     const Variables& b_names) {
  const auto check = [](const char* a_name, int64_t a_value, const char* b_name, int64_t b_value) {
    if (a_value == b_value) return;
    fail_usage({"the environment contradicts itself: ", show(a_name, a_value), " and ",
                show(b_name, b_value)});
  };
  check(a_names.rank, a.rank, b_names.rank, b.rank);
  check(a_names.size, a.size, b_names.size, b.size);
  if (a.local_rank && b.local_rank) {
    check(a_names.local_rank, *a.local_rank, b_names.local_rank, *b.local_rank);
  }
}

World make_world(const Found& found) {
  World world;
  world.source = found.source;
  world.rank = static_cast<int>(found.rank);
  world.size = static_cast<int>(found.size);
  // Where nobody says, all ranks are taken to share this host.
  world.local_rank = static_cast<int>(found.local_rank.value_or(found.rank));
  world.local_size = static_cast<int>(found.local_size.value_or(found.size));
  world.local_rank_known = found.local_rank.has_value() || found.size == 1;
  world.local_size_known = found.local_size.has_value() || found.size == 1;
  return world;
}

}  // namespace

World World::from(const Lookup& lookup) {
  std::optional<Found> bare = read(lookup, kBare);
  const std::optional<Found> open_mpi = read(lookup, kOpenMpi);
  if (bare && open_mpi) {
    check_agreement(*bare, kBare, *open_mpi, kOpenMpi);
    if (!bare->local_rank) bare->local_rank = open_mpi->local_rank;
    if (!bare->local_size) bare->local_size = open_mpi->local_size;
  }
  const bool pmi = lookup("PMIX_RANK") != nullptr || lookup("PMI_RANK") != nullptr;
  std::optional<Found> found = bare ? bare : open_mpi;
  if (!found) found = read_pmix(lookup);
  if (!found) found = read_slurm(lookup);
  if (!found) return {};
  World world = make_world(*found);
  world.mpi = open_mpi.has_value() || pmi;
  return world;
}

World World::from_env() {
  return from([](const char* name) { return std::getenv(name); });
}

namespace {

// MPI's, where no longer deadline is given.
constexpr std::chrono::milliseconds kLongestStart = std::chrono::minutes(10);

// Equal for ranks that share processors and reach each other at 127.0.0.1.
std::string own_host() {
  char name[256] = {};
  ::gethostname(name, sizeof name - 1);
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  struct stat network {};
  ::stat("/proc/self/ns/net", &network);
  return concat({name, " ", boot, " ", static_cast<uint64_t>(network.st_ino)});
}

std::unique_ptr<Communicator> open_communicator(const World& world, Device device,
                                                std::chrono::milliseconds timeout) {
  if (world.size == 1) return make_single_communicator(device);
  if (device.kind == DeviceKind::cuda) {
    const nccl::JobStore job = nccl::connect_job_store(world, timeout);
    return make_nccl_communicator(*job.store, world, device, timeout);
  }
  if (!world.mpi) {
    const bool slurm = world.source == "SLURM_PROCID";
    fail_usage({world.source, " says rank ", world.rank, " of ", world.size,
                ", but ranks on CPUs talk through MPI, which did not start them: use ",
                slurm ? "srun --mpi=pmix" : "mpirun", " or `lockstep run`"});
  }
  auto communicator = make_mpi_communicator(
      timeout == timeout.zero() ? timeout : std::max(kLongestStart, 10 * timeout));
  LOCKSTEP_CHECK(communicator->rank() == world.rank && communicator->size() == world.size,
                 world.source, " says rank ", world.rank, " of ", world.size,
                 ", but this program's MPI library says rank ", communicator->rank(), " of ",
                 communicator->size(), ": the launcher belongs to another MPI");
  return communicator;
}

}  // namespace

std::unique_ptr<Communicator> make_communicator(const World& world, Device device,
                                                std::chrono::milliseconds timeout) {
  std::unique_ptr<Communicator> communicator = open_communicator(world, device, timeout);
  communicator->set_timeout(timeout);
  return communicator;
}

void find_local_place(std::span<const std::string> hosts, World& world) {
  const auto self = hosts.begin() + world.rank;
  if (!world.local_rank_known) {
    world.local_rank = static_cast<int>(std::count(hosts.begin(), self, *self));
  }
  if (!world.local_size_known) {
    world.local_size = static_cast<int>(std::count(hosts.begin(), hosts.end(), *self));
  }
  world.local_rank_known = world.local_size_known = true;
}

void find_local_place(Communicator& communicator, World& world) {
  if (communicator.size() == 1) return;
  find_local_place(all_gather_text(communicator, own_host(), "hosts"), world);
}

}  // namespace lockstep
