#include "lockstep/launcher/flags/flags.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace lockstep::flags {
namespace {

using Arguments = std::vector<std::string>;

struct Options {
  int64_t steps = 1000;
  int ranks = 1;
  double learning_rate = 1e-3;
  std::string schedule = "constant";
  std::string prompt;
  bool reproducible = false;
  std::filesystem::path run_dir = "run";
  std::optional<int64_t> micro_batch;
  std::chrono::milliseconds grace{30'000};
  std::vector<std::string> environment;
};

void describe(Command& command, Options& options) {
  command.group("Schedule");
  command.add({.name = "--steps", .help = "optimizer steps", .minimum = 0}, options.steps);
  command.add({.name = "-n,--ranks", .help = "ranks", .minimum = 1}, options.ranks);
  command.add({.name = "--learning-rate", .help = "peak rate"}, options.learning_rate);
  command.add({.name = "--schedule",
               .help = "shape of the learning rate",
               .choices = {"constant", "linear", "cosine"}},
              options.schedule);
  command.group("Run");
  command.add({.name = "--prompt", .help = "text to continue"}, options.prompt);
  command.add({.name = "--reproducible", .help = "same bits"}, options.reproducible);
  command.add({.name = "--run-dir", .help = "where", .value = "DIR"}, options.run_dir);
  command.add({.name = "--micro-batch", .help = "samples", .unset = "auto"}, options.micro_batch);
  command.add({.name = "--grace", .help = "time to save"}, options.grace);
  command.add({.name = "--env", .help = "variable", .value = "NAME=VALUE"}, options.environment);
}

struct Parsed {
  Options options;
  Result result;
};

Parsed parse(const Arguments& arguments) {
  Parsed parsed;
  Command command("gpt", "Trains.");
  describe(command, parsed.options);
  parsed.result = command.parse(arguments);
  return parsed;
}

std::string error_of(const Arguments& arguments) {
  const Parsed parsed = parse(arguments);
  EXPECT_EQ(parsed.result.exit_code, 2);
  EXPECT_EQ(parsed.result.output, "");
  EXPECT_EQ(std::count(parsed.result.error.begin(), parsed.result.error.end(), '\n'), 1);
  EXPECT_EQ(parsed.options.steps, 1000) << "assigned although the line was wrong";
  return parsed.result.error;
}

TEST(Flags, ReadsEveryKind) {
  const auto [options, result] = parse({"--steps",
                                        "20",
                                        "-n",
                                        "4",
                                        "--learning-rate=-2e-4",
                                        "--schedule",
                                        "cosine",
                                        "--prompt=",
                                        "--reproducible",
                                        "--run-dir",
                                        "out",
                                        "--micro-batch",
                                        "8",
                                        "--grace",
                                        "1.5m",
                                        "--env",
                                        "A=1",
                                        "--env=B=2",
                                        "--steps",
                                        "30"});
  ASSERT_FALSE(result.exit_code) << result.error;
  EXPECT_EQ(options.steps, 30);
  EXPECT_EQ(options.ranks, 4);
  EXPECT_EQ(options.learning_rate, -2e-4);
  EXPECT_EQ(options.schedule, "cosine");
  EXPECT_EQ(options.prompt, "");
  EXPECT_TRUE(options.reproducible);
  EXPECT_EQ(options.run_dir, "out");
  EXPECT_EQ(options.micro_batch, 8);
  EXPECT_EQ(options.grace, std::chrono::seconds(90));
  EXPECT_EQ(options.environment, (Arguments{"A=1", "B=2"}));
}

TEST(Flags, KeepsDefaultsAndNegativeNumbers) {
  const auto [options, result] = parse({"--learning-rate", "-1", "--micro-batch", "auto"});
  ASSERT_FALSE(result.exit_code) << result.error;
  EXPECT_EQ(options.learning_rate, -1);
  EXPECT_EQ(options.micro_batch, std::nullopt);
  EXPECT_EQ(options.steps, 1000);
}

TEST(Flags, ValuesMayLookOdd) {
  EXPECT_EQ(parse({"--prompt", ""}).options.prompt, "");
  EXPECT_EQ(parse({"--prompt", "[a, b]"}).options.prompt, "[a, b]");
  EXPECT_EQ(parse({"--prompt=--steps"}).options.prompt, "--steps");
  EXPECT_EQ(parse({"--prompt", "a = b\nc"}).options.prompt, "a = b\nc");
  EXPECT_EQ(parse({"--prompt=x=y="}).options.prompt, "x=y=");
  EXPECT_EQ(parse({"--prompt", "-dash"}).options.prompt, "-dash");
}

TEST(Flags, NamesTheMistake) {
  EXPECT_EQ(error_of({"--stpes", "3"}),
            "gpt: unknown option --stpes; the nearest is --steps (see gpt --help)\n");
  EXPECT_EQ(error_of({"--stpes=3"}),
            "gpt: unknown option --stpes; the nearest is --steps (see gpt --help)\n");
  EXPECT_EQ(error_of({"--steps", "many"}),
            "gpt: --steps: 'many' is not a whole number (see gpt --help)\n");
  EXPECT_EQ(error_of({"--steps", "1.5"}),
            "gpt: --steps: '1.5' is not a whole number (see gpt --help)\n");
  EXPECT_EQ(error_of({"--steps", "-1"}),
            "gpt: --steps: '-1' is too small: at least 0 (see gpt --help)\n");
  EXPECT_EQ(error_of({"--steps", "99999999999999999999"}),
            "gpt: --steps: '99999999999999999999' is not a whole number (see gpt --help)\n");
  EXPECT_EQ(error_of({"--schedule", "cosin"}),
            "gpt: --schedule: 'cosin' is none of constant, linear, cosine; the nearest is cosine "
            "(see gpt --help)\n");
  EXPECT_EQ(error_of({"--learning-rate", "nan"}),
            "gpt: --learning-rate: 'nan' is not a number (see gpt --help)\n");
  EXPECT_EQ(error_of({"-n", "5000000000"}),
            "gpt: --ranks: '5000000000' is too large (see gpt --help)\n");
  EXPECT_EQ(error_of({"stray"}), "gpt: unexpected argument stray (see gpt --help)\n");
}

TEST(Flags, NeverTakesAnOptionForAValue) {
  EXPECT_EQ(error_of({"--steps"}), "gpt: --steps needs a value (see gpt --help)\n");
  EXPECT_EQ(error_of({"--prompt", "--steps", "3"}),
            "gpt: --prompt needs a value (found --steps) (see gpt --help)\n");
  EXPECT_EQ(error_of({"--prompt", "--x=3"}),
            "gpt: --prompt needs a value (found --x=3) (see gpt --help)\n");
  EXPECT_EQ(error_of({"--steps=", "3"}),
            "gpt: --steps: '' is not a whole number (see gpt --help)\n");
}

TEST(Flags, HelpHasOneLineForEachOptionWithItsDefault) {
  const Result result = parse({"--help"}).result;
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.output,
            "Usage: gpt [OPTIONS]\n"
            "Trains.\n"
            "\nSchedule:\n"
            "      --steps N          optimizer steps (default: 1000)\n"
            "  -n, --ranks N          ranks (default: 1)\n"
            "      --learning-rate X  peak rate (default: 0.001)\n"
            "      --schedule constant|linear|cosine  shape of the learning rate (default: "
            "constant)\n"
            "\nRun:\n"
            "      --prompt TEXT      text to continue\n"
            "      --reproducible     same bits (default: off)\n"
            "      --run-dir DIR      where (default: run)\n"
            "      --micro-batch N    samples (default: auto)\n"
            "      --grace DURATION   time to save (default: 30s)\n"
            "      --env NAME=VALUE   variable\n"
            "\nHelp:\n"
            "      --help             print this and end\n"
            "      --version          print the version and end\n");
}

TEST(Flags, PageIsPrintedInsteadOfRunning) {
  Command program("tool", "Does things.");
  Command& command = program.command("run", "runs");
  std::vector<std::string> rest;
  command.rest({.name = "PROGRAM", .required = true}, rest);
  command.page("--help-colours", "list the colours and end", "red\nblue\n");
  for (int again = 0; again < 2; ++again) {
    const Result page = program.parse(Arguments{"run", "--help-colours"});
    EXPECT_EQ(page.exit_code, 0);
    EXPECT_EQ(page.output, "red\nblue\n");
    EXPECT_FALSE(program.parse(Arguments{"run", "x", "--help-colours"}).exit_code);
    EXPECT_EQ(rest, (Arguments{"x", "--help-colours"}));
  }
  EXPECT_NE(command.help().find("--help-colours  list the colours and end"), std::string::npos);
  EXPECT_EQ(program.parse(Arguments{"run", "--help-colors", "x"}).error,
            "tool run: unknown option --help-colors; the nearest is --help-colours (see tool run "
            "--help)\n");
}

TEST(Flags, VersionNamesTheProgram) {
  const Result result = parse({"--version"}).result;
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_TRUE(result.output.starts_with("gpt 0.")) << result.output;
}

struct Tool {
  Command command{"tool", "Does things."};
  Command& run = command.command("run", "Runs.");
  Command& data = command.command("data", "Handles data.");
  Command& data_list = data.command("list", "Lists.");
  int ranks = 1;
  std::vector<std::string> program;
  std::filesystem::path directory;

  Tool() {
    run.add({.name = "-n,--ranks", .help = "how many"}, ranks);
    run.rest({.name = "PROGRAM ARG...", .help = "what to run", .required = true}, program);
    data_list.argument({.name = "DIR", .help = "where", .required = true}, directory);
  }
};

TEST(Flags, RestKeepsTheOptionsOfAnotherProgram) {
  for (const bool marked : {false, true}) {
    Tool tool;
    Arguments line = {"run", "-n",   "2",     "prog", "--help", "-n",
                      "9",   "--x=", "[a,b]", "--",   "run",    "data"};
    if (marked) line.insert(line.begin() + 3, "--");
    const Result result = tool.command.parse(line);
    ASSERT_FALSE(result.exit_code) << result.error << result.output;
    EXPECT_TRUE(tool.run.chosen());
    EXPECT_FALSE(tool.data.chosen());
    EXPECT_EQ(tool.ranks, 2);
    EXPECT_TRUE(tool.run.given("-n"));
    EXPECT_TRUE(tool.run.given("--ranks"));
    EXPECT_EQ(tool.program,
              (Arguments{"prog", "--help", "-n", "9", "--x=", "[a,b]", "--", "run", "data"}));
  }
}

TEST(Flags, CommandsNest) {
  Tool tool;
  ASSERT_FALSE(tool.command.parse(Arguments{"data", "list", "run"}).exit_code);
  EXPECT_TRUE(tool.data_list.chosen());
  EXPECT_EQ(tool.directory, "run");
}

TEST(Flags, CommandMistakes) {
  const auto error = [](const Arguments& line) {
    Tool tool;
    const Result result = tool.command.parse(line);
    EXPECT_EQ(result.exit_code, 2);
    return result.error;
  };
  EXPECT_EQ(error({"rnu"}), "tool: unknown command rnu; the nearest is run (see tool --help)\n");
  EXPECT_EQ(error({}), "tool: COMMAND is missing (see tool --help)\n");
  EXPECT_EQ(error({"data"}), "tool data: COMMAND is missing (see tool data --help)\n");
  EXPECT_EQ(error({"data", "list"}),
            "tool data list: DIR is missing (see tool data list --help)\n");
  EXPECT_EQ(error({"data", "list", "a", "b"}),
            "tool data list: unexpected argument b (see tool data list --help)\n");
  EXPECT_EQ(error({"run"}), "tool run: PROGRAM ARG... is missing (see tool run --help)\n");
  EXPECT_EQ(error({"run", "--rank", "2", "prog"}),
            "tool run: unknown option --rank; the nearest is --ranks (see tool run --help)\n");
  EXPECT_EQ(error({"run", "-n"}), "tool run: --ranks needs a value (see tool run --help)\n");
  EXPECT_EQ(error({"--verbose", "run", "prog"}),
            "tool: unknown option --verbose; the nearest is --version (see tool --help)\n");
}

TEST(Flags, CommandHelp) {
  Tool tool;
  const Result result = tool.command.parse(Arguments{"data", "list", "--help"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_TRUE(result.output.starts_with("Usage: tool data list [OPTIONS] DIR\nLists.\n"));
  Tool other;
  EXPECT_NE(other.command.help().find("  run            Runs.\n"), std::string::npos)
      << other.command.help();
}

TEST(Flags, Durations) {
  using std::chrono::milliseconds;
  EXPECT_EQ(parse_duration("30"), milliseconds(30'000));
  EXPECT_EQ(parse_duration("30s"), milliseconds(30'000));
  EXPECT_EQ(parse_duration("250ms"), milliseconds(250));
  EXPECT_EQ(parse_duration("1.5h"), milliseconds(5'400'000));
  for (const char* text : {"", "s", "-1s", "3 s", "3x", "1e5", "9999999999999999d"}) {
    EXPECT_EQ(parse_duration(text), std::nullopt) << text;
  }
}

TEST(Flags, Sizes) {
  EXPECT_EQ(parse_size("512"), 512);
  EXPECT_EQ(parse_size("64K"), 65'536);
  EXPECT_EQ(parse_size("1.5GiB"), 1'610'612'736);
  EXPECT_EQ(parse_size("2MB"), 2'097'152);
  for (const char* text : {"", "K", "-1", "1X", "1KK", "99999999T"}) {
    EXPECT_EQ(parse_size(text), std::nullopt) << text;
  }
}

TEST(Flags, Nearest) {
  const std::vector<std::string> names = {"--steps", "--seed", "--schedule"};
  EXPECT_EQ(nearest("--sed", names), "--seed");
  EXPECT_EQ(nearest("--step", names), "--steps");
  EXPECT_EQ(nearest("x", {}), "");
}

}  // namespace
}  // namespace lockstep::flags
