#include "lockstep/nn/parallel/same_model.h"

#include <algorithm>
#include <string>

namespace lockstep::nn {
namespace {

std::string describe(const std::vector<NamedParameter>& parameters) {
  std::string lines;
  for (const auto& [name, parameter] : parameters) {
    lines += name + " " + parameter.shape().to_string();
    if (parameter.placed()) lines += " " + std::string(name_of(parameter.dtype()));
    if (parameter.frozen()) lines += " frozen";
    lines += '\n';
  }
  return lines;
}

// The line of a text around a position, or a word for its absence.
std::string line_at(const std::string& text, size_t position) {
  const size_t begin = position == 0 ? 0 : text.rfind('\n', position - 1) + 1;
  if (begin >= text.size()) return "nothing more";
  return "'" + text.substr(begin, text.find('\n', begin) - begin) + "'";
}

}  // namespace

void check_same_model(Communicator& communicator, const std::vector<NamedParameter>& parameters,
                      const std::string& options, const std::string& refusal) {
  const std::string mine = refusal + '\n' + describe(parameters) + options;
  std::vector<std::string> all = all_gather_text(communicator, mine, "model check");
  for (size_t rank = 0; rank < all.size(); ++rank) {
    const size_t end = all[rank].find('\n');
    if (end > 0 && all.size() == 1) fail({refusal});
    if (end > 0) fail({"rank ", rank, ": ", all[rank].substr(0, end)});
    all[rank].erase(0, 1);
  }
  for (size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank] == all[0]) continue;
    const size_t common = std::min(all[0].size(), all[rank].size());
    const size_t at =
        std::mismatch(all[0].begin(), all[0].begin() + common, all[rank].begin()).first -
        all[0].begin();
    fail({"the ranks hold different models: rank 0 has ", line_at(all[0], at), " where rank ", rank,
          " has ", line_at(all[rank], at)});
  }
}

void broadcast_values(Communicator& communicator, const std::vector<Array>& values,
                      std::string_view what) {
  std::vector<Work> works;
  for (const Array& array : values)
    works.push_back(communicator.broadcast(array, 0, {.what = what}));
  for (const Work& work : works) work.wait();
}

}  // namespace lockstep::nn
