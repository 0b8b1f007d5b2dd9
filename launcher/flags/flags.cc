#include "lockstep/launcher/flags/flags.h"

#include <algorithm>

#include "lockstep/launcher/flags/command_node.h"
#include "lockstep/launcher/flags/values.h"

namespace lockstep::flags {
namespace {

using Assignments = std::vector<std::function<void()>>;
using Texts = std::vector<std::string>;

std::string joined(const std::vector<std::string>& texts, const char* separator) {
  std::string all;
  for (const std::string& text : texts) all += (all.empty() ? "" : separator) + text;
  return all;
}

template <class T>
void bind(Entry& entry, T& value) {
  if (entry.flag.value.empty()) {
    entry.value_name =
        entry.flag.choices.empty() ? internal::placeholder(value) : joined(entry.flag.choices, "|");
  } else {
    entry.value_name = entry.flag.value;
  }
  entry.default_text = internal::show_value(entry.flag, value);
  entry.read = [&entry, &value](const Texts& texts, Assignments& assignments) {
    T parsed{};
    std::string problem = internal::read_value(entry.flag, texts.back(), parsed);
    if (problem.empty()) assignments.push_back([&value, parsed] { value = parsed; });
    return problem;
  };
}

void bind_list(Entry& entry, std::vector<std::string>& value) {
  entry.value_name = entry.flag.value.empty() ? "TEXT" : entry.flag.value;
  entry.read = [&entry, &value](const Texts& texts, Assignments& assignments) {
    std::string checked;
    for (const std::string& text : texts) {
      std::string problem = internal::read_value(entry.flag, text, checked);
      if (!problem.empty()) return problem;
    }
    assignments.push_back([&value, texts] { value = texts; });
    return std::string();
  };
}

void add_help_switches(CLI::App& app, bool& help, bool& version) {
  app.set_help_flag();
  app.allow_extras();
  app.add_flag("--help", help);
  app.add_flag("--version", version);
}

}  // namespace

Entry& Command::Node::add_entry(Flag flag, bool positional) {
  entries.push_back(std::make_unique<Entry>());
  Entry& entry = *entries.back();
  entry.flag = std::move(flag);
  entry.group = positional ? "Arguments" : group;
  entry.positional = positional;
  const auto collect = [&entry](const CLI::results_t& texts) {
    entry.texts = texts;
    return true;
  };
  // CLI11 wants a plain word for the name of an argument.
  const std::string name = positional ? "A" + std::to_string(entries.size()) : entry.flag.name;
  entry.option = app->add_option(name, collect);
  entry.option->type_size(1)->expected(1)->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  return entry;
}

std::vector<std::string> Command::Node::option_names() const {
  std::vector<std::string> names;
  for (const auto& entry : entries) {
    const std::string& name = entry->flag.name;
    if (!entry->positional) names.push_back(name.substr(name.find("--")));
  }
  for (const auto& page : pages) names.push_back(page->name);
  names.insert(names.end(), {"--help", "--version"});
  return names;
}

Command::Command(std::string name, std::string summary) : node_(std::make_unique<Node>()) {
  node_->owned_app = std::make_unique<CLI::App>(summary, name);
  node_->app = node_->owned_app.get();
  node_->full_name = std::move(name);
  node_->summary = std::move(summary);
  add_help_switches(*node_->app, node_->help_asked, node_->version_asked);
}

Command::Command(std::unique_ptr<Node> node) : node_(std::move(node)) {
  add_help_switches(*node_->app, node_->help_asked, node_->version_asked);
}

Command::~Command() = default;

Command& Command::command(std::string name, std::string summary) {
  auto node = std::make_unique<Node>();
  node->app = node_->app->add_subcommand(name, summary);
  // At most one: what follows it is never taken for another command.
  node_->app->require_subcommand(0, 1);
  node->full_name = node_->full_name + " " + name;
  node->summary = std::move(summary);
  node_->commands.push_back(std::unique_ptr<Command>(new Command(std::move(node))));
  return *node_->commands.back();
}

void Command::group(std::string title) { node_->group = std::move(title); }
void Command::epilogue(std::string text) { node_->epilogue = std::move(text); }

void Command::page(std::string name, std::string help, std::string text) {
  node_->pages.push_back(
      std::make_unique<Page>(Page{std::move(name), std::move(help), std::move(text)}));
  Page& page = *node_->pages.back();
  node_->app->add_flag(page.name, page.asked);
}

void Command::add(Flag flag, bool& value) {
  node_->entries.push_back(std::make_unique<Entry>());
  Entry& entry = *node_->entries.back();
  entry.flag = std::move(flag);
  entry.group = node_->group;
  entry.default_text = value ? "on" : "off";
  entry.option =
      node_->app->add_flag_function(entry.flag.name, [&entry](int64_t) { entry.texts = {"on"}; });
  entry.read = [&value](const Texts&, Assignments& assignments) {
    assignments.push_back([&value] { value = true; });
    return std::string();
  };
}

void Command::add(Flag flag, std::string& value) {
  bind(node_->add_entry(std::move(flag), false), value);
}
void Command::add(Flag flag, int& value) { bind(node_->add_entry(std::move(flag), false), value); }
void Command::add(Flag flag, int64_t& value) {
  bind(node_->add_entry(std::move(flag), false), value);
}
void Command::add(Flag flag, double& value) {
  bind(node_->add_entry(std::move(flag), false), value);
}
void Command::add(Flag flag, std::filesystem::path& value) {
  bind(node_->add_entry(std::move(flag), false), value);
}
void Command::add(Flag flag, std::chrono::milliseconds& value) {
  bind(node_->add_entry(std::move(flag), false), value);
}
void Command::add(Flag flag, std::optional<std::string>& value) {
  bind(node_->add_entry(std::move(flag), false), value);
}
void Command::add(Flag flag, std::optional<int64_t>& value) {
  bind(node_->add_entry(std::move(flag), false), value);
}
void Command::add(Flag flag, std::optional<double>& value) {
  bind(node_->add_entry(std::move(flag), false), value);
}
void Command::add(Flag flag, std::optional<std::filesystem::path>& value) {
  bind(node_->add_entry(std::move(flag), false), value);
}
void Command::add(Flag flag, std::vector<std::string>& value) {
  bind_list(node_->add_entry(std::move(flag), false), value);
}

void Command::argument(Flag flag, std::string& value) {
  bind(node_->add_entry(std::move(flag), true), value);
}
void Command::argument(Flag flag, std::filesystem::path& value) {
  bind(node_->add_entry(std::move(flag), true), value);
}

void Command::rest(Flag flag, std::vector<std::string>& value) {
  Entry& entry = node_->add_entry(std::move(flag), true);
  entry.is_rest = true;
  entry.option->expected(1, 1 << 28)->allow_extra_args();
  // From the first argument on, nothing is an option.
  node_->app->positionals_at_end();
  bind_list(entry, value);
}

bool Command::chosen() const { return node_->app->parsed(); }

bool Command::given(std::string_view name) const {
  const auto matches = [&](const auto& entry) {
    return ("," + entry->flag.name + ",").find("," + std::string(name) + ",") != std::string::npos;
  };
  const auto found = std::find_if(node_->entries.begin(), node_->entries.end(), matches);
  return found != node_->entries.end() && !(*found)->texts.empty();
}

}  // namespace lockstep::flags
