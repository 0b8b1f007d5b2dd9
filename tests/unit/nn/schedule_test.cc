#include <gtest/gtest.h>

#include <cmath>

#include "optimizer_testing.h"

namespace lockstep::optim {
namespace {

std::vector<double> first_of(const Schedule& schedule, double rate, int64_t steps) {
  std::vector<double> result;
  for (int64_t step = 0; step < steps; ++step) result.push_back(schedule.at(step, rate));
  return result;
}

double half_cosine(double part) { return (1 + std::cos(std::acos(-1) * part)) / 2; }

// Values by hand, for a rate of 1.
TEST(Schedule, OfOneKind) {
  const struct {
    const char* name;
    Schedule schedule;
    std::vector<double> expected;
  } cases[] = {
      {"StepLR", StepLR{.step_size = 2, .gamma = 0.5}, {1, 1, 0.5, 0.5, 0.25}},
      {"MultiStepLR", MultiStepLR{.milestones = {1, 3, 3}, .gamma = 0.5}, {1, 0.5, 0.5, 0.125}},
      {"ConstantLR", ConstantLR{.factor = 0.25, .total_iters = 2}, {0.25, 0.25, 1, 1}},
      {"LinearLR",
       LinearLR{.start_factor = 0.5, .end_factor = 1, .total_iters = 2},
       {0.5, 0.75, 1, 1}},
      {"ExponentialLR", ExponentialLR{.gamma = 0.5}, {1, 0.5, 0.25, 0.125}},
      {"PolynomialLR", PolynomialLR{.total_iters = 2, .power = 2}, {1, 0.25, 0, 0}},
      {"CosineAnnealingLR", CosineAnnealingLR{.t_max = 2, .eta_min = 0.5}, {1, 0.75, 0.5, 0.75, 1}},
      {"CosineAnnealingWarmRestarts",
       CosineAnnealingWarmRestarts{.t_0 = 2, .t_mult = 2},
       {1, 0.5, 1, half_cosine(0.25), 0.5, half_cosine(0.75), 1}},
      {"LambdaLR", LambdaLR{[](int64_t step) { return 1.0 / (1 + step); }}, {1, 0.5, 1.0 / 3}},
      {"OneCycleLR",
       OneCycleLR{.max_lr = 2,
                  .total_steps = 5,
                  .pct_start = 0.6,
                  .anneal_strategy = OneCycleLR::Anneal::linear,
                  .div_factor = 4,
                  .final_div_factor = 5},
       {0.5, 1.25, 2, 1.05, 0.1}},
      {"OneCycleLR of three phases",
       OneCycleLR{.max_lr = 2,
                  .total_steps = 10,
                  .pct_start = 0.3,
                  .div_factor = 4,
                  .final_div_factor = 5,
                  .three_phase = true},
       {0.5, 1.25, 2, 1.25, 0.5}},
      {"SequentialLR",
       SequentialLR{
           .schedules = {ConstantLR{.factor = 0.5, .total_iters = 9}, ExponentialLR{.gamma = 0.5}},
           .milestones = {2}},
       {0.5, 0.5, 1, 0.5, 0.25}},
      {"ChainedScheduler",
       ChainedScheduler{
           .schedules = {ConstantLR{.factor = 0.5, .total_iters = 2}, ExponentialLR{.gamma = 0.5}}},
       {0.5, 0.25, 0.25, 0.125}},
      {"ChainedScheduler with what is above 0",
       ChainedScheduler{.schedules = {ExponentialLR{.gamma = 0.5},
                                      CosineAnnealingLR{.t_max = 2, .eta_min = 0.25}}},
       {1, 0.25 + 0.25 * 0.5, 0.25}},
      {"ChainedScheduler with one that does not read the rate",
       ChainedScheduler{
           .schedules = {LambdaLR{[](int64_t) { return 1.0; }}, ExponentialLR{.gamma = 0.5}}},
       {1, 0.5, 0.5}},
  };
  for (const auto& [name, schedule, expected] : cases) {
    const auto found = first_of(schedule, 1, static_cast<int64_t>(expected.size()));
    for (size_t step = 0; step < expected.size(); ++step) {
      EXPECT_NEAR(found[step], expected[step], 1e-14) << name << " step " << step;
    }
  }
}

TEST(Schedule, RefusesNumbersThatMakeNoSense) {
  EXPECT_THROW(Schedule(StepLR{.step_size = 0}), Error);
  EXPECT_THROW(Schedule(ConstantLR{.factor = 2}), Error);
  EXPECT_THROW(Schedule(LinearLR{.start_factor = 0}), Error);
  EXPECT_THROW(Schedule(LinearLR{.total_iters = 0}), Error);
  EXPECT_THROW(Schedule(PolynomialLR{.total_iters = 0}), Error);
  EXPECT_THROW(Schedule(CosineAnnealingLR{.t_max = 0}), Error);
  EXPECT_THROW(Schedule(CosineAnnealingWarmRestarts{.t_mult = 0}), Error);
  EXPECT_THROW(Schedule(OneCycleLR{.max_lr = 1}), Error);
  EXPECT_THROW(Schedule(LambdaLR{}), Error);
  EXPECT_THROW(Schedule(SequentialLR{}), Error);
  EXPECT_THROW(Schedule(ChainedScheduler{}), Error);
  const Schedule cycle = OneCycleLR{.max_lr = 1, .total_steps = 4};
  EXPECT_THROW(cycle.at(5, 1), Error);
}

TEST(Scheduler, MovesEachGroupFromItsOwnRate) {
  Fixture f(true);
  SGD optimizer(
      {{.parameters = {f.parameters[0]}}, {.parameters = {f.parameters[1]}, .learning_rate = 0.5}},
      {.learning_rate = 1});
  Scheduler scheduler(optimizer, LinearLR{.start_factor = 0.5, .total_iters = 2});
  EXPECT_EQ(optimizer.learning_rate(0), 0.5);
  EXPECT_EQ(optimizer.learning_rate(1), 0.25);
  scheduler.step();
  EXPECT_EQ(optimizer.learning_rate(0), 0.75);
  EXPECT_EQ(optimizer.learning_rate(1), 0.375);
  scheduler.set_current_step(7);
  EXPECT_EQ(scheduler.current_step(), 7);
  EXPECT_EQ(optimizer.learning_rate(1), 0.5);
}

TEST(Scheduler, HasOneScheduleForEachGroup) {
  Fixture f(true);
  SGD optimizer({{.parameters = {f.parameters[0]}}, {.parameters = {f.parameters[1]}}},
                {.learning_rate = 1});
  const std::vector<Schedule> schedules{ExponentialLR{.gamma = 0.5}, StepLR{.step_size = 9}};
  Scheduler scheduler(optimizer, schedules);
  scheduler.step();
  EXPECT_EQ(optimizer.learning_rate(0), 0.5);
  EXPECT_EQ(optimizer.learning_rate(1), 1);
  EXPECT_THROW(Scheduler(optimizer, std::vector<Schedule>(3, StepLR{})), Error);
}

TEST(Scheduler, CyclesMomentumOrBeta1) {
  Fixture f(true);
  const OneCycleLR cycle{.max_lr = 1,
                         .total_steps = 5,
                         .pct_start = 0.6,
                         .anneal_strategy = OneCycleLR::Anneal::linear};
  SGD sgd(f.parameters, {.momentum = 0.5});
  AdamW adamw(f.parameters);
  Adagrad adagrad(f.parameters);
  Scheduler of_sgd(sgd, cycle), of_adamw(adamw, cycle);
  for (double expected : {0.95, 0.9, 0.85, 0.9, 0.95}) {
    EXPECT_NEAR(sgd.options().momentum, expected, 1e-15);
    EXPECT_NEAR(adamw.options().beta1, expected, 1e-15);
    of_sgd.step();
    of_adamw.step();
  }
  EXPECT_THROW(Scheduler(adagrad, cycle), Error);
}

TEST(ReduceLROnPlateau, WaitsThenReducesThenCoolsDown) {
  Fixture f(true);
  SGD optimizer(f.parameters, {.learning_rate = 1});
  ReduceLROnPlateau plateau(
      optimizer, {.factor = 0.5, .patience = 1, .threshold = 0.1, .cooldown = 2, .min_lr = {0.2}});
  const struct {
    double metric, rate;
  } steps[] = {
      {10, 1},    {8, 1},     // better
      {7.5, 1},               // not by a tenth
      {NAN, 0.5},             // the second in a row
      {9, 0.5},   {9, 0.5},   // cooling down
      {9, 0.5},   {9, 0.25},  //
      {1, 0.25},  {1, 0.25},  // better, but cooling down
      {1, 0.25},  {1, 0.2},   // no further
  };
  for (const auto& [metric, rate] : steps) {
    plateau.step(metric);
    EXPECT_EQ(optimizer.learning_rate(), rate);
  }
}

TEST(ReduceLROnPlateau, MaximizesWithAnAbsoluteThreshold) {
  Fixture f(true);
  SGD optimizer(f.parameters, {.learning_rate = 1});
  ReduceLROnPlateau plateau(optimizer, {.mode = PlateauOptions::Mode::max,
                                        .factor = 0.5,
                                        .patience = 0,
                                        .threshold = 1,
                                        .threshold_mode = PlateauOptions::ThresholdMode::absolute});
  plateau.step(-5);
  plateau.step(-3.5);
  EXPECT_EQ(optimizer.learning_rate(), 1);
  plateau.step(-2.5);
  EXPECT_EQ(optimizer.learning_rate(), 0.5);
}

TEST(ReduceLROnPlateau, GoesOnFromItsSavedState) {
  Fixture f(true);
  SGD first(f.parameters, {.learning_rate = 1}), second(f.parameters, {.learning_rate = 1});
  ReduceLROnPlateau straight(first, {.factor = 0.5, .patience = 1});
  for (double metric : {1.0, 2.0, 2.0, 2.0}) straight.step(metric);
  ReduceLROnPlateau resumed(second, {.factor = 0.5, .patience = 1});
  resumed.set_state(straight.state());
  EXPECT_EQ(second.learning_rate(), 0.5);
  straight.step(2);
  resumed.step(2);
  EXPECT_EQ(first.learning_rate(), 0.25);
  EXPECT_EQ(second.learning_rate(), 0.25);
}

}  // namespace
}  // namespace lockstep::optim
