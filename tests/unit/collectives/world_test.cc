#include "lockstep/collectives/world.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "support/thread_ranks.h"

namespace lockstep {
namespace {

using Environment = std::map<std::string, std::string>;

World world_of(const Environment& environment) {
  return World::from([&](const char* name) -> const char* {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  });
}

struct Case {
  const char* name;
  Environment environment;
  World expected;
};

const Environment kOpenMpi = {{"OMPI_COMM_WORLD_RANK", "2"},
                              {"OMPI_COMM_WORLD_SIZE", "4"},
                              {"OMPI_COMM_WORLD_LOCAL_RANK", "0"},
                              {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                              {"PMIX_RANK", "2"}};

Environment with(Environment environment, const Environment& more) {
  for (const auto& [name, value] : more) environment[name] = value;
  return environment;
}

TEST(World, IsFoundInTheEnvironment) {
  const Case cases[] = {
      {"alone", {}, {}},
      {"empty values", {{"RANK", ""}, {"WORLD_SIZE", ""}}, {}},
      {"bare", {{"RANK", "1"}, {"WORLD_SIZE", "2"}}, {1, 2, 1, 2, "RANK", false}},
      {"torchrun, two hosts",
       {{"RANK", "3"}, {"WORLD_SIZE", "4"}, {"LOCAL_RANK", "1"}, {"LOCAL_WORLD_SIZE", "2"}},
       {3, 4, 1, 2, "RANK", false}},
      {"mpirun", kOpenMpi, {2, 4, 0, 2, "OMPI_COMM_WORLD_RANK", true}},
      {"mpirun and bare variables that agree",
       with(kOpenMpi, {{"RANK", "2"}, {"WORLD_SIZE", "4"}}),
       {2, 4, 0, 2, "RANK", true}},
      {"mpirun inside a batch script",
       with(kOpenMpi, {{"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "2"}}),
       {2, 4, 0, 2, "OMPI_COMM_WORLD_RANK", true}},
      {"MPICH",
       {{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "2"}},
       {1, 2, 1, 2, "PMI_RANK", true}},
      {"srun with PMIx",
       {{"PMIX_RANK", "3"},
        {"SLURM_STEP_ID", "5"},
        {"SLURM_PROCID", "3"},
        {"SLURM_NTASKS", "4"},
        {"SLURM_LOCALID", "1"},
        {"SLURM_NODEID", "1"},
        {"SLURM_STEP_TASKS_PER_NODE", "2(x2)"}},
       {3, 4, 1, 2, "PMIX_RANK", true}},
      {"srun without PMIx",
       {{"SLURM_STEP_ID", "0"},
        {"SLURM_PROCID", "4"},
        {"SLURM_STEP_NUM_TASKS", "5"},
        {"SLURM_NTASKS", "8"},
        {"SLURM_LOCALID", "0"},
        {"SLURM_NODEID", "2"},
        {"SLURM_STEP_TASKS_PER_NODE", "2(x2),1"}},
       {4, 5, 0, 1, "SLURM_PROCID", false}},
      {"batch script", {{"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "0"}, {"SLURM_JOB_ID", "7"}}, {}},
      {"batch step",
       {{"SLURM_STEP_ID", "4294967291"}, {"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}},
       {}},
      {"interactive step",
       {{"SLURM_STEP_ID", "4294967290"}, {"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}},
       {}},
  };
  for (const Case& each : cases) {
    SCOPED_TRACE(each.name);
    const World world = world_of(each.environment);
    EXPECT_EQ(world.rank, each.expected.rank);
    EXPECT_EQ(world.size, each.expected.size);
    EXPECT_EQ(world.local_rank, each.expected.local_rank);
    EXPECT_EQ(world.local_size, each.expected.local_size);
    EXPECT_EQ(world.source, each.expected.source);
    EXPECT_EQ(world.mpi, each.expected.mpi);
  }
}

TEST(World, KnowsWhichLocalNumbersTheEnvironmentLeavesOut) {
  const Environment readme = {{"RANK", "1"},
                              {"WORLD_SIZE", "2"},
                              {"LOCAL_RANK", "0"},
                              {"MASTER_ADDR", "node1"},
                              {"MASTER_PORT", "29500"}};
  const struct {
    const char* name;
    Environment environment;
    bool rank_known, size_known;
  } cases[] = {
      {"alone", {}, true, true},
      {"a world of one", {{"RANK", "0"}, {"WORLD_SIZE", "1"}}, true, true},
      {"README's", readme, true, false},
      {"and the size", with(readme, {{"LOCAL_WORLD_SIZE", "1"}}), true, true},
      {"bare", {{"RANK", "1"}, {"WORLD_SIZE", "2"}}, false, false},
      {"mpirun", kOpenMpi, true, true},
      {"PMI", {{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}}, false, false},
  };
  for (const auto& each : cases) {
    SCOPED_TRACE(each.name);
    const World world = world_of(each.environment);
    EXPECT_EQ(world.local_rank_known, each.rank_known);
    EXPECT_EQ(world.local_size_known, each.size_known);
  }
}

TEST(World, RanksFindThoseThatShareTheirHost) {
  const std::vector<std::string> hosts = {"a", "b", "a", "b", "b"};
  World pmi = world_of({{"PMI_RANK", "3"}, {"PMI_SIZE", "5"}});
  find_local_place(hosts, pmi);
  EXPECT_EQ(pmi.local_rank, 1);
  EXPECT_EQ(pmi.local_size, 3);
  EXPECT_TRUE(pmi.local_rank_known && pmi.local_size_known);
  // What was said holds: the device has been chosen by it.
  World said = world_of({{"RANK", "2"}, {"WORLD_SIZE", "5"}, {"LOCAL_RANK", "0"}});
  find_local_place(hosts, said);
  EXPECT_EQ(said.local_rank, 0);
  EXPECT_EQ(said.local_size, 2);
}

TEST(World, RanksOfOneProcessShareTheirHost) {
  testing::run_ranks(3, [](Communicator& communicator) {
    World world = world_of({{"RANK", std::to_string(communicator.rank())}, {"WORLD_SIZE", "3"}});
    world.local_size = 1;
    find_local_place(communicator, world);
    EXPECT_EQ(world.local_rank, communicator.rank());
    EXPECT_EQ(world.local_size, 3);
  });
}

void expect_usage_error(const std::function<void()>& body, const std::vector<std::string>& parts) {
  try {
    body();
    FAIL() << "nothing was thrown";
  } catch (const UsageError& error) {
    const std::string text = error.what();
    for (const std::string& part : parts) {
      EXPECT_NE(text.find(part), std::string::npos) << "'" << text << "' lacks '" << part << "'";
    }
  }
}

TEST(World, ContradictionsAreShown) {
  const struct {
    Environment environment;
    std::vector<std::string> parts;
  } cases[] = {
      {with(kOpenMpi, {{"RANK", "1"}, {"WORLD_SIZE", "4"}}), {"RANK=1", "OMPI_COMM_WORLD_RANK=2"}},
      {with(kOpenMpi, {{"RANK", "2"}, {"WORLD_SIZE", "3"}}),
       {"WORLD_SIZE=3", "OMPI_COMM_WORLD_SIZE=4"}},
      {{{"RANK", "2"}, {"WORLD_SIZE", "2"}}, {"RANK=2", "WORLD_SIZE=2"}},
      {{{"RANK", "0"}, {"WORLD_SIZE", "0"}}, {"RANK=0", "WORLD_SIZE=0"}},
      {{{"RANK", "-1"}, {"WORLD_SIZE", "2"}}, {"RANK=-1"}},
      {{{"RANK", "0"}, {"WORLD_SIZE", "two"}}, {"WORLD_SIZE=two"}},
      {{{"RANK", "1"}}, {"RANK=1", "no WORLD_SIZE"}},
      {{{"WORLD_SIZE", "2"}}, {"WORLD_SIZE=2", "no RANK"}},
      {{{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "2"}}, {"LOCAL_RANK=2", "WORLD_SIZE=2"}},
      {{{"PMIX_RANK", "1"}}, {"PMIX_RANK=1", "no world size"}},
      {{{"PMIX_RANK", "1"}, {"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "2"}},
       {"PMIX_RANK=1", "SLURM_PROCID=0"}},
  };
  for (const auto& each : cases) {
    SCOPED_TRACE(each.parts.front());
    expect_usage_error([&] { world_of(each.environment); }, each.parts);
  }
}

TEST(World, AWorldOfOneNeedsNoMpi) {
  EXPECT_EQ(make_communicator({})->backend(), "single");
  World bare = world_of({{"RANK", "0"}, {"WORLD_SIZE", "1"}});
  EXPECT_EQ(make_communicator(bare)->backend(), "single");
}

TEST(World, CpuRanksNeedAnMpiLauncher) {
  const World bare = world_of({{"RANK", "1"}, {"WORLD_SIZE", "2"}});
  expect_usage_error([&] { make_communicator(bare); }, {"RANK", "mpirun", "lockstep run"});
  const World slurm =
      world_of({{"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "2"}});
  expect_usage_error([&] { make_communicator(slurm); }, {"srun --mpi=pmix", "lockstep run"});
}

}  // namespace
}  // namespace lockstep
