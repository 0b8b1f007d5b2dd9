// What lies together in a bucket.
#include <map>

#include "lockstep/nn/blocks.h"
#include "lockstep/nn/parallel/sharding.h"

namespace lockstep::nn {
namespace {

// Last parameter first: about the order in which backward finishes them.
std::vector<int> reversed(const std::vector<NamedParameter>& parameters, bool frozen) {
  std::vector<int> order;
  for (int i = static_cast<int>(parameters.size()) - 1; i >= 0; --i) {
    if (parameters[static_cast<size_t>(i)].parameter.frozen() == frozen) order.push_back(i);
  }
  return order;
}

}  // namespace

std::vector<Sharding::Group> groups_by_block(const std::vector<NamedParameter>& parameters,
                                             bool vectors_apart) {
  std::map<std::string, int> blocks;
  std::vector<Sharding::Group> groups;
  for (bool frozen : {false, true}) {
    std::map<std::pair<int, bool>, size_t> group_of;
    for (int i : reversed(parameters, frozen)) {
      const auto& [name, parameter] = parameters[static_cast<size_t>(i)];
      const int next = static_cast<int>(blocks.size());
      const int block = blocks.try_emplace(block_of(name), next).first->second;
      const bool apart = vectors_apart && parameter.shape().rank() < 2;
      const auto [place, added] = group_of.try_emplace({block, apart}, groups.size());
      if (added) groups.push_back({.members = {}, .block = block});
      groups[place->second].members.push_back(i);
    }
  }
  return groups;
}

std::vector<Sharding::Group> groups_by_size(const std::vector<NamedParameter>& parameters,
                                            DType dtype, const BucketSizes& sizes) {
  std::vector<Shape> shapes;
  for (const NamedParameter& named : parameters) shapes.push_back(named.parameter.shape());
  std::vector<Sharding::Group> groups;
  for (bool frozen : {false, true}) {
    const std::vector<int> order = reversed(parameters, frozen);
    for (FlatLayout::Bucket& bucket : FlatLayout::pack(shapes, order, dtype, sizes).buckets) {
      groups.push_back({std::move(bucket.members), static_cast<int>(groups.size())});
    }
  }
  return groups;
}

}  // namespace lockstep::nn
