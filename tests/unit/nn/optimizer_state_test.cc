#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "lockstep/nn/layers.h"
#include "optimizer_testing.h"

namespace lockstep::optim {
namespace {

class EveryOptimizer : public ::testing::TestWithParam<OptimizerCase> {};
INSTANTIATE_TEST_SUITE_P(Optimizers, EveryOptimizer, ::testing::ValuesIn(all_optimizers()),
                         [](const auto& info) { return info.param.name; });

// sum over all parameters of sum over i of (1 + i) p_i^2 / 2, whose gradient is (1 + i) p_i.
double quadratic(Fixture& fixture) {
  double loss = 0;
  for (const nn::Parameter& parameter : fixture.parameters) {
    std::vector<double> values = parameter.tensor().to_vector<double>();
    for (size_t i = 0; i < values.size(); ++i) {
      loss += (1.0 + i) * values[i] * values[i] / 2;
      values[i] *= 1.0 + i;
    }
    Fixture::write(Array::from(values, parameter.shape()), parameter.leaf().gradient());
    parameter.leaf().set_has_gradient(true);
  }
  return loss;
}

TEST_P(EveryOptimizer, DescendsAQuadratic) {
  for (DType dtype : {DType::f64, DType::f32}) {
    Fixture fixture(true, dtype, GetParam().shapes());
    const auto optimizer = GetParam().make(fixture.parameters);
    const double before = quadratic(fixture);
    for (int step = 0; step < 100; ++step) {
      quadratic(fixture);
      optimizer->step();
    }
    EXPECT_LT(quadratic(fixture), 0.05 * before) << name_of(dtype);
  }
}

TEST_P(EveryOptimizer, RunsThatAreJoinedEqualSingleOnes) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    Fixture flat(true, dtype, GetParam().shapes()), alone(false, dtype, GetParam().shapes());
    const auto of_flat = GetParam().make(flat.parameters);
    const auto of_alone = GetParam().make(alone.parameters);
    for (int step = 1; step <= 5; ++step) {
      flat.give_gradients(step);
      alone.give_gradients(step);
      for (Fixture* fixture : {&flat, &alone}) {
        if (step == 3) fixture->parameters[1].leaf().zero_grad();
      }
      of_flat->step(0.5);
      of_alone->step(0.5);
      EXPECT_EQ(flat.all_values(), alone.all_values()) << name_of(dtype) << " step " << step;
    }
  }
}

TEST_P(EveryOptimizer, GoesOnFromItsSavedState) {
  Fixture straight(true, DType::f32, GetParam().shapes());
  Fixture resumed(false, DType::f32, GetParam().shapes());
  const auto first = GetParam().make(straight.parameters);
  const auto run = [](Fixture& fixture, Optimizer& optimizer, int from, int to) {
    for (int step = from; step <= to; ++step) {
      fixture.give_gradients(step);
      if (step % 2 == 0) fixture.parameters[0].leaf().zero_grad();
      optimizer.step();
    }
  };
  run(straight, *first, 1, 7);
  std::vector<Optimizer::State> saved = first->state();
  for (Optimizer::State& entry : saved) entry.values = kernels::copy(entry.values);
  for (size_t i = 0; i < resumed.parameters.size(); ++i) {
    kernels::copy_into(straight.parameters[i].tensor().value(),
                       resumed.parameters[i].tensor().value());
  }
  run(straight, *first, 8, 12);

  const auto second = GetParam().make(resumed.parameters);
  second->load_state(saved);
  run(resumed, *second, 8, 12);
  EXPECT_EQ(resumed.all_values(), straight.all_values());

  saved.pop_back();
  EXPECT_THROW(second->load_state(saved), Error);
}

// Decay, state and count of steps included.
TEST_P(EveryOptimizer, LeavesAParameterWithoutAGradientAlone) {
  Fixture fixture(true, DType::f64, GetParam().shapes());
  const auto optimizer = GetParam().make(fixture.parameters);
  fixture.give_gradients(1);
  optimizer->step();
  const auto of_first = [&] {
    std::vector<std::vector<double>> values{fixture.values(0)};
    for (const Optimizer::State& entry : optimizer->state()) {
      if (entry.parameter == 0) values.push_back(entry.values.to_vector<double>());
    }
    return values;
  };
  const auto before = of_first();
  fixture.give_gradients(2);
  fixture.parameters[0].leaf().zero_grad();
  optimizer->step();
  EXPECT_EQ(of_first(), before);
  fixture.give_gradients(3);
  fixture.parameters[0].set_frozen(true);
  optimizer->step();
  EXPECT_EQ(of_first(), before);
}

TEST(OptimizerState, HasPyTorchsNames) {
  const auto names_of = [](Optimizer& optimizer) {
    std::set<std::string> names;
    for (const auto& entry : optimizer.state()) names.insert(entry.name);
    return names;
  };
  using Names = std::set<std::string>;
  Fixture f(true);
  SGD plain(f.parameters), momentum(f.parameters, {.momentum = 0.9});
  EXPECT_EQ(names_of(plain), (Names{"step"}));
  EXPECT_EQ(names_of(momentum), (Names{"step", "momentum_buffer"}));
  AdamW amsgrad(f.parameters, {.amsgrad = true});
  EXPECT_EQ(names_of(amsgrad), (Names{"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}));
  NAdam nadam(f.parameters);
  EXPECT_EQ(names_of(nadam), (Names{"step", "mu_product", "exp_avg", "exp_avg_sq"}));
  RMSprop rmsprop(f.parameters, {.momentum = 0.5, .centered = true});
  EXPECT_EQ(names_of(rmsprop), (Names{"step", "square_avg", "grad_avg", "momentum_buffer"}));
  Lamb lamb(f.parameters);
  EXPECT_EQ(names_of(lamb), (Names{"step", "exp_avg", "exp_avg_sq"}));
}

TEST(OptimizerState, IsOfTheSameOptimizer) {
  Fixture f(true);
  SGD momentum(f.parameters, {.momentum = 0.9});
  Adagrad adagrad(f.parameters);
  EXPECT_THROW(adagrad.load_state(momentum.state()), Error);
}

TEST(OptimizerState, IsOfTheParametersDtype) {
  nn::Linear linear(64, 64);
  linear.place({});
  Adam adam(linear.parameters());
  const auto step = [&](DType dtype) {
    sum(linear(Tensor(Array::full({2, 64}, 1, dtype)))).backward();
    adam.step();
  };
  step(DType::f32);
  linear.to(DType::f64);
  const auto before = linear.weight.tensor().to_vector<double>();
  EXPECT_THAT([&] { step(DType::f64); },
              ::testing::ThrowsMessage<Error>(::testing::HasSubstr("the optimizer's state f32")));
  EXPECT_EQ(linear.weight.tensor().to_vector<double>(), before);
}

}  // namespace
}  // namespace lockstep::optim
