#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::flags {

// One option or argument as `--help` shows it. The default shown is what the bound variable holds
// when it is added.
struct Flag {
  std::string name;  // "--learning-rate", or "-n,--ranks"; an argument's is in capitals: "PROGRAM"
  std::string help;
  std::string value = {};                 // what stands for the value in help: "N", "FILE"
  std::vector<std::string> choices = {};  // of a string: anything else is an error
  std::optional<double> minimum = {};     // of a number or duration (in seconds)
  std::optional<double> maximum = {};
  std::string unset = {};  // of an optional: the word that means "no value", such as "auto"
  bool required = false;
};

// What a command line came to.
struct Result {
  std::optional<int> exit_code;  // set when the program has to end now: 0 after --help, 2 for usage
  std::string output;            // for stdout
  std::string error;             // for stderr, one line
};

// A program's command line, or one of its commands. Every command has --help and --version.
// Variables are bound by reference and must outlive the parsing; they change only when everything
// was understood. Options may be written "--name VALUE" or "--name=VALUE" (a value that begins with
// "--" only so); given twice, the last one counts (a list collects them all).
class Command {
 public:
  Command(std::string name, std::string summary);
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;
  ~Command();

  // A command of this one ("lockstep checkpoint list"): exactly one must be given then. The
  // reference stays good as long as this object.
  Command& command(std::string name, std::string summary);
  // Options added from here on stand under this title in --help.
  void group(std::string title);
  // A paragraph at the end of --help.
  void epilogue(std::string text);
  // A switch that prints `text` and ends the program, as --help does.
  void page(std::string name, std::string help, std::string text);

  void add(Flag flag, bool& value);  // a switch: takes no value, sets true
  void add(Flag flag, std::string& value);
  void add(Flag flag, int& value);
  void add(Flag flag, int64_t& value);
  void add(Flag flag, double& value);
  void add(Flag flag, std::filesystem::path& value);
  void add(Flag flag, std::chrono::milliseconds& value);  // "30s", "10m", "1.5h", "250ms"
  void add(Flag flag, std::optional<std::string>& value);
  void add(Flag flag, std::optional<int64_t>& value);
  void add(Flag flag, std::optional<double>& value);
  void add(Flag flag, std::optional<std::filesystem::path>& value);
  void add(Flag flag, std::vector<std::string>& value);  // may be given many times

  // Arguments without a dash, in the order added.
  void argument(Flag flag, std::string& value);
  void argument(Flag flag, std::filesystem::path& value);
  // Everything from the first argument on, options included; "--" before it is dropped. A command
  // with a rest has no other arguments.
  void rest(Flag flag, std::vector<std::string>& value);

  Result parse(std::span<const std::string> arguments);
  // Parses, prints, and returns the exit code when the program has to end now.
  std::optional<int> parse_or_print(int argc, const char* const* argv);

  // Whether the last parse chose this command.
  bool chosen() const;
  // Whether the last parse saw this option.
  bool given(std::string_view name) const;
  std::string help() const;

 private:
  friend struct Reader;
  struct Node;
  explicit Command(std::unique_ptr<Node> node);

  std::unique_ptr<Node> node_;
};

// The name with the smallest edit distance (Levenshtein); empty when there are none.
std::string nearest(std::string_view name, std::span<const std::string> names);

// "90", "90s", "10m", "1.5h", "250ms"; seconds without a unit. Nothing when it is not a duration.
std::optional<std::chrono::milliseconds> parse_duration(std::string_view text);
// "512", "64K", "1.5GiB": units of 1024 bytes. Nothing when it is not a size.
std::optional<int64_t> parse_size(std::string_view text);

}  // namespace lockstep::flags
