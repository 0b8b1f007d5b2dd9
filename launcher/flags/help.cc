#include <algorithm>

#include "lockstep/launcher/flags/command_node.h"

namespace lockstep::flags {
namespace {

constexpr size_t kWidestLabel = 36;

struct Line {
  std::string group;
  std::string label;
  std::string text;
};

std::string label_of(const Entry& entry) {
  if (entry.positional) return entry.flag.name;
  std::string label = entry.flag.name;
  if (label.starts_with("--")) label.insert(0, "    ");
  const size_t comma = label.find(',');
  if (comma != std::string::npos) label.insert(comma + 1, " ");
  return entry.value_name.empty() ? label : label + " " + entry.value_name;
}

Line line_of(const Entry& entry) {
  std::string text = entry.flag.help;
  if (entry.flag.required) {
    text += " (required)";
  } else if (!entry.default_text.empty()) {
    text += " (default: " + entry.default_text + ")";
  }
  return {entry.group, label_of(entry), text};
}

std::string layout(const std::vector<Line>& lines) {
  size_t width = 0;
  for (const Line& line : lines) {
    if (line.label.size() <= kWidestLabel) width = std::max(width, line.label.size());
  }
  std::vector<std::string> groups;
  for (const Line& line : lines) {
    if (std::find(groups.begin(), groups.end(), line.group) == groups.end()) {
      groups.push_back(line.group);
    }
  }
  std::string text;
  for (const std::string& group : groups) {
    text += "\n" + group + ":\n";
    for (const Line& line : lines) {
      if (line.group != group) continue;
      const size_t gap = line.label.size() <= width ? width - line.label.size() : 0;
      text += "  " + line.label + std::string(gap + 2, ' ') + line.text + "\n";
    }
  }
  return text;
}

}  // namespace

std::string Command::Node::usage() const {
  std::string text = "Usage: " + full_name + " [OPTIONS]";
  if (!commands.empty()) text += " COMMAND";
  for (const auto& entry : entries) {
    if (!entry->positional) continue;
    if (entry->is_rest) text += " [--]";
    text += entry->flag.required ? " " + entry->flag.name : " [" + entry->flag.name + "]";
  }
  return text + "\n";
}

std::string Command::Node::help() const {
  std::vector<Line> lines;
  for (const auto& command : commands) {
    const Node& node = *command->node_;
    lines.push_back({"Commands", node.app->get_name(), node.summary});
  }
  for (const auto& entry : entries) {
    if (entry->positional) lines.push_back(line_of(*entry));
  }
  for (const auto& entry : entries) {
    if (!entry->positional) lines.push_back(line_of(*entry));
  }
  for (const auto& page : pages) lines.push_back({"Help", "    " + page->name, page->help});
  lines.push_back({"Help", "    --help", "print this and end"});
  lines.push_back({"Help", "    --version", "print the version and end"});
  std::string text = usage() + summary + "\n" + layout(lines);
  return epilogue.empty() ? text : text + "\n" + epilogue + "\n";
}

std::string Command::help() const { return node_->help(); }

}  // namespace lockstep::flags
