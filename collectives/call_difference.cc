#include "lockstep/collectives/call_difference.h"

#include <algorithm>

#include "lockstep/runtime/error.h"

namespace lockstep {

std::string describe_difference(const std::vector<RankCall>& calls) {
  const auto votes = [&](const RankCall& candidate) {
    return std::count_if(calls.begin(), calls.end(),
                         [&](const RankCall& call) { return call.kind == candidate.kind; });
  };
  const auto usual =
      std::max_element(calls.begin(), calls.end(),
                       [&](const RankCall& a, const RankCall& b) { return votes(a) < votes(b); });
  const auto odd = std::find_if(calls.begin(), calls.end(),
                                [&](const RankCall& call) { return call.kind != usual->kind; });
  if (odd == calls.end()) return "";
  const std::string text = concat({"ranks called different collectives: rank ", usual->rank, " ",
                                   usual->text, "; rank ", odd->rank, " ", odd->text});
  if (votes(*usual) < 2) return text;
  return text +
         concat({"; ", votes(*usual), " of ", calls.size(), " ranks do as rank ", usual->rank});
}

}  // namespace lockstep
