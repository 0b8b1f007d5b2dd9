#include "lockstep/launcher/train/make_optimizer.h"

#include "lockstep/nn/optim.h"
#include "lockstep/runtime/error.h"

namespace lockstep::train {
namespace {

using Groups = std::vector<optim::ParameterGroup>;

template <class O>
std::unique_ptr<optim::Optimizer> make(const TrainOptions& from, const Groups& groups) {
  typename O::Options options{.learning_rate = from.learning_rate};
  if constexpr (requires { options.beta1; }) options.beta1 = from.beta1;
  if constexpr (requires { options.beta2; }) options.beta2 = from.beta2;
  if constexpr (requires { options.alpha; }) options.alpha = from.beta2;
  if constexpr (requires { options.rho; }) options.rho = from.beta2;
  if constexpr (requires { options.epsilon; }) options.epsilon = from.epsilon;
  if constexpr (requires { options.momentum; }) options.momentum = from.momentum;
  return std::make_unique<O>(groups, options);
}

struct Rule {
  const char* name;
  std::unique_ptr<optim::Optimizer> (*make)(const TrainOptions&, const Groups&);
};

constexpr Rule kRules[] = {
    {"sgd", make<optim::SGD>},         {"adam", make<optim::Adam>},
    {"adamw", make<optim::AdamW>},     {"adagrad", make<optim::Adagrad>},
    {"rmsprop", make<optim::RMSprop>}, {"adadelta", make<optim::Adadelta>},
    {"nadam", make<optim::NAdam>},     {"radam", make<optim::RAdam>},
    {"lamb", make<optim::Lamb>},       {"lion", make<optim::Lion>},
};

}  // namespace

std::vector<std::string> optimizer_names() {
  std::vector<std::string> names;
  for (const Rule& rule : kRules) names.emplace_back(rule.name);
  return names;
}

std::unique_ptr<optim::Optimizer> make_optimizer(const TrainOptions& options,
                                                 const std::vector<nn::Parameter>& parameters) {
  std::string names;
  for (const Rule& rule : kRules) {
    if (rule.name == options.optimizer) {
      return rule.make(options, optim::decay_matrices_only(parameters, options.weight_decay));
    }
    names += (names.empty() ? "" : ", ") + std::string(rule.name);
  }
  fail_usage({"--optimizer ", options.optimizer, ": expected one of ", names});
}

}  // namespace lockstep::train
