#include "conformance/replay.h"
#include "lockstep/nn/optim/schedule.h"

namespace lockstep::conformance {
namespace {

using optim::Schedule;

Schedule build_schedule(const std::string& name, const Arguments& a);

std::vector<Schedule> parts(const Arguments& a) {
  std::vector<Schedule> schedules;
  for (const Json& entry : a.attribute("schedulers")) {
    const Arguments arguments({}, entry.at("attributes"));
    schedules.push_back(build_schedule(entry.at("name").get<std::string>(), arguments));
    arguments.check_all_read();
  }
  return schedules;
}

Schedule one_cycle(const Arguments& a) {
  const std::string strategy = a.string("anneal_strategy");
  LOCKSTEP_CHECK(strategy == "cos" || strategy == "linear", "'anneal_strategy' is '", strategy,
                 "'");
  return optim::OneCycleLR{.max_lr = a.number("max_lr"),
                           .total_steps = a.integer("total_steps"),
                           .pct_start = a.number("pct_start"),
                           .anneal_strategy = strategy == "cos" ? optim::OneCycleLR::Anneal::cos
                                                                : optim::OneCycleLR::Anneal::linear,
                           .cycle_momentum = a.boolean("cycle_momentum"),
                           .div_factor = a.number("div_factor"),
                           .final_div_factor = a.number("final_div_factor"),
                           .three_phase = a.boolean("three_phase")};
}

using Build = Schedule (*)(const Arguments&);

const std::map<std::string, Build>& builders() {
  static const std::map<std::string, Build> kBuilders = {
      {"ChainedScheduler",
       [](const Arguments& a) -> Schedule { return optim::ChainedScheduler{parts(a)}; }},
      {"ConstantLR",
       [](const Arguments& a) -> Schedule {
         return optim::ConstantLR{a.number("factor"), a.integer("total_iters")};
       }},
      {"CosineAnnealingLR",
       [](const Arguments& a) -> Schedule {
         return optim::CosineAnnealingLR{a.integer("T_max"), a.number("eta_min")};
       }},
      {"CosineAnnealingWarmRestarts",
       [](const Arguments& a) -> Schedule {
         return optim::CosineAnnealingWarmRestarts{a.integer("T_0"), a.integer("T_mult"),
                                                   a.number("eta_min")};
       }},
      {"ExponentialLR",
       [](const Arguments& a) -> Schedule { return optim::ExponentialLR{a.number("gamma")}; }},
      {"LinearLR",
       [](const Arguments& a) -> Schedule {
         return optim::LinearLR{a.number("start_factor"), a.number("end_factor"),
                                a.integer("total_iters")};
       }},
      {"MultiStepLR",
       [](const Arguments& a) -> Schedule {
         return optim::MultiStepLR{a.integers("milestones"), a.number("gamma")};
       }},
      {"OneCycleLR", one_cycle},
      {"PolynomialLR",
       [](const Arguments& a) -> Schedule {
         return optim::PolynomialLR{a.integer("total_iters"), a.number("power")};
       }},
      {"SequentialLR",
       [](const Arguments& a) -> Schedule {
         return optim::SequentialLR{parts(a), a.integers("milestones")};
       }},
      {"StepLR",
       [](const Arguments& a) -> Schedule {
         return optim::StepLR{a.integer("step_size"), a.number("gamma")};
       }},
  };
  return kBuilders;
}

Schedule build_schedule(const std::string& name, const Arguments& a) {
  const auto found = builders().find(name);
  LOCKSTEP_CHECK(found != builders().end(), "no schedule of the name '", name, "'");
  return found->second(a);
}

}  // namespace

void replay_schedule(const Case& recorded, Failures& failures) {
  const Arguments arguments({}, recorded.attributes);
  const double rate = arguments.number("lr");
  const int64_t steps = arguments.integer("steps");
  const Schedule schedule = build_schedule(recorded.name, arguments);
  arguments.check_all_read();
  std::vector<double> rates;
  for (int64_t step = 0; step < steps; ++step) rates.push_back(schedule.at(step, rate));
  const Array expected = recorded.find("learning_rate");
  LOCKSTEP_CHECK(expected, "the case has no learning_rate");
  compare(recorded, "learning_rate", Array::from(rates, {steps}), expected, failures);
}

}  // namespace lockstep::conformance
