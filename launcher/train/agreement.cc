#include "lockstep/launcher/train/agreement.h"

#include <sstream>
#include <vector>

namespace lockstep::train {
namespace {

// A line of a JSON object, without its indentation and comma.
std::string member(const std::string& line) {
  const size_t begin = line.find_first_not_of(' ');
  const size_t end = line.find_last_not_of(", ");
  return begin == std::string::npos ? "nothing" : line.substr(begin, end - begin + 1);
}

}  // namespace

void agree_on(Communicator& communicator, std::string_view what, const std::string& error,
              int exit_code) {
  const std::string mine = error.empty() ? "" : std::to_string(exit_code) + " " + error;
  const std::vector<std::string> all = all_gather_text(communicator, mine, what);
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].empty()) continue;
    const size_t space = all[rank].find(' ');
    const std::string message = all[rank].substr(space + 1);
    // Where all ranks say the same, it is not about one of them.
    bool same = true;
    for (const std::string& other : all) same = same && other == all[rank];
    const int code = std::stoi(all[rank].substr(0, space));
    if (same) throw AgreedFailure(message, code);
    throw AgreedFailure(concat({"rank ", rank, ": ", message}), code, static_cast<int>(rank));
  }
}

void agree(Communicator& communicator, std::string_view what, const std::function<void()>& act) {
  std::string error;
  int exit_code = 1;
  try {
    act();
  } catch (const UsageError& usage) {
    error = usage.what();
    exit_code = 2;
  } catch (const std::exception& other) {
    error = other.what();
  }
  agree_on(communicator, what, error, exit_code);
}

void require_same(Communicator& communicator, std::string_view what, const std::string& text) {
  const std::vector<std::string> all = all_gather_text(communicator, text, what);
  for (size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank] == all[0]) continue;
    std::istringstream first(all[0]), other(all[rank]);
    std::string expected, found;
    do {
      expected.clear();
      found.clear();
      std::getline(first, expected);
      std::getline(other, found);
    } while (expected == found && (first || other));
    throw AgreedFailure(concat({what, " differ: rank 0 has ", member(expected), ", rank ", rank,
                                " has ", member(found)}),
                        2);
  }
}

}  // namespace lockstep::train
