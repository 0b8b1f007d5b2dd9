#include <gtest/gtest.h>

#include "optimizer_testing.h"

namespace lockstep::optim {
namespace {

TEST(Groups, OverrideOptions) {
  Fixture together(true), apart(true);
  AdamW::Options base{.learning_rate = 0.1, .beta1 = 0.8, .weight_decay = 0.05};
  AdamW::Options own = base;
  own.beta2 = 0.5;
  own.amsgrad = true;
  own.maximize = true;
  const auto& p = together.parameters;
  AdamW optimizer({{{p[0], p[2]}, base}, {{p[1]}, own}});
  AdamW first({apart.parameters[0], apart.parameters[2]}, base);
  AdamW second({apart.parameters[1]}, own);
  EXPECT_EQ(optimizer.groups(), 2);
  for (int step = 1; step <= 3; ++step) {
    together.give_gradients(step);
    apart.give_gradients(step);
    optimizer.step();
    first.step();
    second.step();
  }
  EXPECT_EQ(together.all_values(), apart.all_values());
}

TEST(Groups, TakeFromTheOptionsWhatTheyDoNotOverride) {
  Fixture f(true);
  const SGD optimizer({{.parameters = {f.parameters[0]}},
                       {.parameters = {f.parameters[1]}, .weight_decay = 0, .learning_rate = 0.5}},
                      {.learning_rate = 0.1, .momentum = 0.9, .weight_decay = 0.01});
  EXPECT_EQ(optimizer.options(0).learning_rate, 0.1);
  EXPECT_EQ(optimizer.options(0).weight_decay, 0.01);
  EXPECT_EQ(optimizer.options(1).learning_rate, 0.5);
  EXPECT_EQ(optimizer.options(1).weight_decay, 0);
  EXPECT_EQ(optimizer.options(1).momentum, 0.9);
}

TEST(Groups, DecayMatricesOnly) {
  Fixture f(true);
  const AdamW optimizer(decay_matrices_only(f.parameters, 0.1), {.learning_rate = 3e-4});
  EXPECT_EQ(optimizer.options(0).weight_decay, 0.1);
  EXPECT_EQ(optimizer.options(1).weight_decay, 0);
  ASSERT_EQ(optimizer.parameters().size(), 3u);
  EXPECT_EQ(optimizer.parameters()[2].identity(), f.parameters[1].identity());
}

TEST(Groups, HaveTheirOwnRates) {
  Fixture f(true);
  SGD optimizer({{.parameters = {f.parameters[0]}}, {.parameters = {f.parameters[1]}}},
                {.learning_rate = 1});
  optimizer.set_learning_rate(1, 0.5);
  EXPECT_EQ(optimizer.learning_rate(), 1);
  EXPECT_EQ(optimizer.learning_rate(1), 0.5);
  optimizer.set_learning_rate(0.25);
  EXPECT_EQ(optimizer.learning_rate(0), 0.25);
  EXPECT_EQ(optimizer.learning_rate(1), 0.25);
}

TEST(Options, ThatMakeNoSenseAreRefused) {
  Fixture f(true);
  EXPECT_THROW(SGD(f.parameters, {.learning_rate = -1}), Error);
  EXPECT_THROW(SGD(f.parameters, {.momentum = 0.9, .dampening = 0.1, .nesterov = true}), Error);
  EXPECT_THROW(Adam(f.parameters, {.beta1 = 1}), Error);
  EXPECT_THROW(AdamW(f.parameters, {.weight_decay = -1}), Error);
  EXPECT_THROW(NAdam(f.parameters, {.momentum_decay = -1}), Error);
  EXPECT_THROW(RAdam(f.parameters, {.epsilon = -1}), Error);
  EXPECT_THROW(Adagrad(f.parameters, {.initial_accumulator_value = -1}), Error);
  EXPECT_THROW(Adadelta(f.parameters, {.rho = 2}), Error);
  EXPECT_THROW(RMSprop(f.parameters, {.momentum = -1}), Error);
  EXPECT_THROW(Lion(f.parameters, {.beta2 = 1}), Error);
  EXPECT_THROW(Lamb(f.parameters, {.epsilon = -1}), Error);
  EXPECT_THROW(Muon(f.parameters, {}), Error) << "one of them is no matrix";
  EXPECT_THROW(LBFGS(f.parameters, {.history_size = 0}), Error);
  EXPECT_THROW(Adam({f.parameters[0], nn::Parameter()}, {}), Error);
}

TEST(Options, ThatNeedMoreStateCannotBeTurnedOnLater) {
  Fixture f(true);
  SGD optimizer(f.parameters, {});
  f.give_gradients(1);
  optimizer.step();
  optimizer.options().momentum = 0.9;
  EXPECT_THROW(optimizer.step(), Error);
}

// Of a sum the gradient is one value with strides 0.
TEST(Step, TakesGradientsThatAreNotContiguous) {
  nn::Parameter parameter({3}, nn::Initializer::zeros());
  parameter.seat(Array::zeros({3}, DType::f64));
  sum(parameter.tensor()).backward();
  SGD optimizer({parameter}, {.learning_rate = 1});
  optimizer.step();
  EXPECT_EQ(parameter.tensor().to_vector<double>(), (std::vector<double>{-1, -1, -1}));
}

}  // namespace
}  // namespace lockstep::optim
