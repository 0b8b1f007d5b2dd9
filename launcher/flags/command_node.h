#pragma once

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Error.hpp>
#include <CLI/Formatter.hpp>
#include <CLI/Option.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/launcher/flags/flags.h"

namespace lockstep::flags {

// One option or argument of a command. CLI11 collects the texts; reading them is ours, so that
// messages are, and nothing is assigned before everything was understood.
struct Entry {
  Flag flag;
  std::string group;
  std::string value_name;    // empty: a switch
  std::string default_text;  // empty: none worth telling
  bool positional = false;
  bool is_rest = false;
  std::vector<std::string> texts;
  CLI::Option* option = nullptr;
  // Returns what is wrong with `texts`; else adds the assignment to the list.
  std::function<std::string(const std::vector<std::string>& texts,
                            std::vector<std::function<void()>>& assignments)>
      read;
};

// A switch that prints a text and ends the program.
struct Page {
  std::string name;
  std::string help;
  std::string text;
  bool asked = false;
};

struct Command::Node {
  std::string full_name;  // "lockstep checkpoint list"
  std::string summary;
  std::string group = "Options";
  std::string epilogue;
  CLI::App* app = nullptr;
  std::unique_ptr<CLI::App> owned_app;  // of the program itself
  std::vector<std::unique_ptr<Entry>> entries;
  std::vector<std::unique_ptr<Page>> pages;
  std::vector<std::unique_ptr<Command>> commands;
  bool help_asked = false;
  bool version_asked = false;

  Entry& add_entry(Flag flag, bool positional);
  std::vector<std::string> option_names() const;
  std::string usage() const;
  std::string help() const;
};

}  // namespace lockstep::flags
