#include "conformance/optimizers.h"

#include "lockstep/nn/optim/adam.h"
#include "lockstep/nn/optim/adaptive.h"
#include "lockstep/nn/optim/muon.h"
#include "lockstep/nn/optim/sgd.h"

namespace lockstep::conformance {
namespace {

using optim::AdadeltaOptions;
using optim::AdagradOptions;
using optim::AdamOptions;
using optim::AdamWOptions;
using optim::MuonOptions;
using optim::NAdamOptions;
using optim::RAdamOptions;
using optim::RMSpropOptions;
using optim::SGDOptions;

double beta(const Arguments& a, size_t i) {
  const std::vector<double> betas = a.numbers("betas");
  LOCKSTEP_CHECK(betas.size() == 2, "'betas' are not two");
  return betas[i];
}

void read(const Arguments& a, AdadeltaOptions& options) {
  options = {.learning_rate = a.number("lr"),
             .rho = a.number("rho"),
             .epsilon = a.number("eps"),
             .weight_decay = a.number("weight_decay"),
             .maximize = a.boolean("maximize")};
}

void read(const Arguments& a, AdagradOptions& options) {
  options = {.learning_rate = a.number("lr"),
             .learning_rate_decay = a.number("lr_decay"),
             .weight_decay = a.number("weight_decay"),
             .initial_accumulator_value = a.number("initial_accumulator_value"),
             .epsilon = a.number("eps"),
             .maximize = a.boolean("maximize")};
}

template <class Options>
void read_adam(const Arguments& a, Options& options) {
  options.learning_rate = a.number("lr");
  options.beta1 = beta(a, 0);
  options.beta2 = beta(a, 1);
  options.epsilon = a.number("eps");
  options.weight_decay = a.number("weight_decay");
  options.maximize = a.boolean("maximize");
}

void read(const Arguments& a, AdamOptions& options) {
  read_adam(a, options);
  options.amsgrad = a.boolean("amsgrad");
}

void read(const Arguments& a, AdamWOptions& options) {
  read_adam(a, options);
  options.amsgrad = a.boolean("amsgrad");
}

void read(const Arguments& a, NAdamOptions& options) {
  read_adam(a, options);
  options.momentum_decay = a.number("momentum_decay");
  options.decoupled_weight_decay = a.boolean("decoupled_weight_decay");
}

void read(const Arguments& a, RAdamOptions& options) {
  read_adam(a, options);
  options.decoupled_weight_decay = a.boolean("decoupled_weight_decay");
}

void read(const Arguments& a, MuonOptions& options) {
  const std::vector<double> coefficients = a.numbers("ns_coefficients");
  LOCKSTEP_CHECK(coefficients.size() == 3, "'ns_coefficients' are not three");
  options = {.learning_rate = a.number("lr"),
             .weight_decay = a.number("weight_decay"),
             .momentum = a.number("momentum"),
             .nesterov = a.boolean("nesterov"),
             .newton_schulz_coefficients = {coefficients[0], coefficients[1], coefficients[2]},
             .epsilon = a.number("eps"),
             .newton_schulz_steps = static_cast<int>(a.integer("ns_steps"))};
  // Null is "original".
  if (a.is_null("adjust_lr_fn")) return;
  const std::map<std::string, MuonOptions::AdjustRate> rules = {
      {"original", MuonOptions::AdjustRate::original},
      {"match_rms_adamw", MuonOptions::AdjustRate::match_rms_adamw}};
  const auto found = rules.find(a.string("adjust_lr_fn"));
  LOCKSTEP_CHECK(found != rules.end(), "'adjust_lr_fn' is ", a.string("adjust_lr_fn"));
  options.adjust_rate = found->second;
}

void read(const Arguments& a, RMSpropOptions& options) {
  options = {.learning_rate = a.number("lr"),
             .alpha = a.number("alpha"),
             .epsilon = a.number("eps"),
             .weight_decay = a.number("weight_decay"),
             .momentum = a.number("momentum"),
             .centered = a.boolean("centered"),
             .maximize = a.boolean("maximize")};
}

void read(const Arguments& a, SGDOptions& options) {
  options = {.learning_rate = a.number("lr"),
             .momentum = a.number("momentum"),
             .dampening = a.number("dampening"),
             .weight_decay = a.number("weight_decay"),
             .nesterov = a.boolean("nesterov"),
             .maximize = a.boolean("maximize")};
}

template <class O>
std::unique_ptr<optim::Optimizer> build(const std::vector<OptimizerGroup>& groups) {
  std::vector<typename O::Group> built;
  for (const OptimizerGroup& group : groups) {
    built.push_back({group.parameters, {}});
    read(group.attributes, built.back().options);
    group.attributes.check_all_read();
  }
  return std::make_unique<O>(built);
}

using Build = std::unique_ptr<optim::Optimizer> (*)(const std::vector<OptimizerGroup>&);

}  // namespace

std::unique_ptr<optim::Optimizer> build_optimizer(const std::string& name,
                                                  const std::vector<OptimizerGroup>& groups) {
  const std::map<std::string, Build> builders = {
      {"Adadelta", build<optim::Adadelta>}, {"Adagrad", build<optim::Adagrad>},
      {"Adam", build<optim::Adam>},         {"AdamW", build<optim::AdamW>},
      {"Muon", build<optim::Muon>},         {"NAdam", build<optim::NAdam>},
      {"RAdam", build<optim::RAdam>},       {"RMSprop", build<optim::RMSprop>},
      {"SGD", build<optim::SGD>},
  };
  const auto found = builders.find(name);
  LOCKSTEP_CHECK(found != builders.end(), "no optimizer of the name '", name, "'");
  return found->second(groups);
}

}  // namespace lockstep::conformance
