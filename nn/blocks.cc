#include "lockstep/nn/blocks.h"

#include <algorithm>

namespace lockstep::nn {
namespace {

bool is_number(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

std::string block_of(std::string_view parameter) {
  size_t begin = 0;
  for (size_t dot = parameter.find('.'); dot != parameter.npos; dot = parameter.find('.', begin)) {
    if (is_number(parameter.substr(begin, dot - begin))) {
      return std::string(parameter.substr(0, dot));
    }
    begin = dot + 1;
  }
  return std::string(parameter.substr(0, begin == 0 ? 0 : begin - 1));
}

std::vector<NamedModule> blocks_of(Module& module) {
  std::vector<NamedModule> blocks;
  for (const NamedModule& named : module.named_modules()) {
    const size_t last = named.name.rfind('.') + 1;  // 0 where there is no dot
    if (!is_number(std::string_view(named.name).substr(last))) continue;
    if (block_of(named.name + ".") == named.name) blocks.push_back(named);
  }
  return blocks;
}

int recompute_blocks(Module& module, bool on) {
  const std::vector<NamedModule> blocks = blocks_of(module);
  for (const NamedModule& block : blocks) block.module->set_recompute(on);
  return static_cast<int>(blocks.size());
}

std::vector<std::string> blocks_not_recomputed(Module& module) {
  std::vector<std::string> names;
  for (const NamedModule& block : blocks_of(module)) {
    if (block.module->recomputes() && !block.module->has_recomputed()) names.push_back(block.name);
  }
  return names;
}

}  // namespace lockstep::nn
