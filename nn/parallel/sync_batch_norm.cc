#include "lockstep/nn/parallel/sync_batch_norm.h"

#include <string>
#include <utility>

#include "lockstep/nn/layers/batch_norm.h"

namespace lockstep::nn {
namespace {

// Of one layer, whose name tells ranks apart that run different ones.
class LayerGroup final : public StatisticsGroup {
 public:
  LayerGroup(Communicator& communicator, const std::string& layer)
      : communicator_(communicator), what_("batch statistics of " + layer) {}

  Array gather(const Array& values) override {
    const Array all =
        Array::empty({communicator_.size(), values.elements()}, values.dtype(), values.device());
    communicator_.all_gather(values, all, {.what = what_}).wait();
    return all;
  }
  void sum(const Array& values) override {
    communicator_.all_reduce(values, ReduceOp::sum, {.what = what_}).wait();
  }

 private:
  Communicator& communicator_;
  std::string what_;
};

// `act` takes the name and the group of each BatchNorm.
template <class Act>
void for_each_group(Module& module, const Act& act) {
  for (const auto& [name, part] : module.named_modules()) {
    const auto visit = [&, &name = name](auto* layer) {
      if (layer) act(name, layer->statistics_group);
    };
    visit(dynamic_cast<BatchNorm1d*>(part));
    visit(dynamic_cast<BatchNorm2d*>(part));
    visit(dynamic_cast<BatchNorm3d*>(part));
  }
}

}  // namespace

void synchronize_batch_norm(Module& module, Communicator& communicator) {
  for_each_group(module, [&](const std::string& name, auto& group) {
    group = std::make_shared<LayerGroup>(communicator, name);
  });
}

bool synchronizes_batch_norm(Module& module) {
  bool any = false;
  for_each_group(module, [&](const std::string&, const auto& group) { any = any || group; });
  return any;
}

}  // namespace lockstep::nn
