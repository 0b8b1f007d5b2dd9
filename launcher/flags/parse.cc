#include <algorithm>
#include <iostream>

#include "lockstep/launcher/flags/command_node.h"
#include "lockstep/runtime/version.h"

namespace lockstep::flags {
namespace {

using Assignments = std::vector<std::function<void()>>;

// CLI11 drops the empty value of "--name=" and takes the next argument instead, cannot tell "--name
// --other" from "--name=--other", and splits "[a,b]" in a list. So a value behind "=" and an
// opening bracket are marked, and the mark taken off.
constexpr char kMark = '\x01';

std::string mark(std::string text) {
  const size_t equals = text.find('=');
  if (text.starts_with("--") && equals != std::string::npos) text.insert(equals + 1, 1, kMark);
  if (text.starts_with("[")) text.insert(0, 1, kMark);
  return text;
}

std::string unmark(std::string text) {
  const size_t place = text.find(kMark);
  if (place != std::string::npos) text.erase(place, 1);
  return text;
}

std::string name_of(const Entry& entry) {
  const size_t start = entry.flag.name.find("--");
  return start == std::string::npos ? entry.flag.name : entry.flag.name.substr(start);
}

// "unknown option --stpes; the nearest is --steps"
std::string unknown(const char* kind, const std::string& name,
                    const std::vector<std::string>& names) {
  const std::string bare = name.substr(0, name.find('='));
  std::string text = std::string("unknown ") + kind + " " + bare;
  return names.empty() ? text : text + "; the nearest is " + nearest(bare, names);
}

bool looks_like_option(const std::string& text) { return text.size() > 1 && text[0] == '-'; }

}  // namespace

// Reads what CLI11 collected for one command of those that were chosen.
struct Reader {
  using Node = Command::Node;

  // What no option and no argument took.
  static std::string check_extras(const Node& node) {
    std::vector<std::string> extras = node.app->remaining();
    std::erase(extras, "--");
    if (extras.empty()) return "";
    const std::string first = unmark(extras.front());
    if (looks_like_option(first)) return unknown("option", first, node.option_names());
    if (node.commands.empty()) return "unexpected argument " + first;
    std::vector<std::string> names;
    for (const auto& command : node.commands) names.push_back(command->node_->app->get_name());
    return unknown("command", first, names);
  }

  static std::string read_entry(Entry& entry, Assignments& assignments) {
    for (std::string& text : entry.texts) {
      if (text.starts_with("--") && !entry.positional) {
        return name_of(entry) + " needs a value (found " + unmark(text) + ")";
      }
      text = unmark(text);
    }
    if (entry.texts.empty()) return "";
    const std::string problem = entry.read(entry.texts, assignments);
    return problem.empty() ? "" : name_of(entry) + ": " + problem;
  }

  static std::string read(Node& node, Assignments& assignments) {
    for (const auto& entry : node.entries) {
      std::string problem = read_entry(*entry, assignments);
      if (!problem.empty()) return problem;
    }
    if (std::string problem = check_extras(node); !problem.empty()) return problem;
    for (const auto& entry : node.entries) {
      if (entry->flag.required && entry->texts.empty()) return name_of(*entry) + " is missing";
    }
    const bool unchosen = !node.commands.empty() && chosen_of(node) == nullptr;
    return unchosen ? "COMMAND is missing" : "";
  }

  static void forget(Node& node) {
    node.help_asked = node.version_asked = false;
    for (const auto& page : node.pages) page->asked = false;
    for (const auto& entry : node.entries) entry->texts.clear();
    for (const auto& command : node.commands) forget(*command->node_);
  }

  static Command* chosen_of(Node& node) {
    for (const auto& command : node.commands) {
      if (command->chosen()) return command.get();
    }
    return nullptr;
  }
};

Result Command::parse(std::span<const std::string> arguments) {
  Reader::forget(*node_);
  std::vector<std::string> reversed;
  for (const std::string& argument : arguments) reversed.push_back(mark(argument));
  std::reverse(reversed.begin(), reversed.end());
  std::string problem;
  try {
    node_->app->parse(reversed);
  } catch (const CLI::ArgumentMismatch& error) {
    const std::string text = error.what();
    problem = text.substr(0, text.find(':')) + " needs a value";
  } catch (const CLI::ParseError& error) {
    problem = error.what();
  }

  const bool refused = !problem.empty();  // by CLI11, in the innermost command
  Assignments assignments;
  std::string blamed = node_->full_name;
  for (Command* command = this; command != nullptr; command = Reader::chosen_of(*command->node_)) {
    Node& node = *command->node_;
    if (node.help_asked) return {0, node.help(), ""};
    for (const auto& page : node.pages) {
      if (page->asked) return {0, page->text, ""};
    }
    if (node.version_asked) return {0, node_->full_name + " " + std::string(version()) + "\n", ""};
    if (problem.empty() || refused) blamed = node.full_name;
    if (problem.empty()) problem = Reader::read(node, assignments);
  }
  if (!problem.empty()) {
    return {2, "", blamed + ": " + problem + " (see " + blamed + " --help)\n"};
  }
  for (const auto& assign : assignments) assign();
  return {};
}

std::optional<int> Command::parse_or_print(int argc, const char* const* argv) {
  const std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  const Result result = parse(arguments);
  std::cout << result.output << std::flush;
  std::cerr << result.error << std::flush;
  return result.exit_code;
}

}  // namespace lockstep::flags
