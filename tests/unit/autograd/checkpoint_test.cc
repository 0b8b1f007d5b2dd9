#include "lockstep/autograd/checkpoint.h"

#include <gtest/gtest.h>

#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/engine.h"
#include "lockstep/autograd/ops.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/backend.h"
#include "support/gradient_check.h"

namespace lockstep {
namespace {

using testing::random_array;

std::string message_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// A small network, its weights captured by the blocks.
struct Network {
  std::vector<Tensor> weights;
  Tensor x;

  explicit Network(int64_t width = 5, int depth = 3) {
    for (int i = 0; i < depth; ++i) {
      weights.push_back(Tensor::variable(random_array({width, width}, 10 + i)));
    }
    x = Tensor::variable(random_array({4, width}, 1));
  }

  Tensor block(const Tensor& h, const Tensor& weight) const {
    return h + dropout(gelu(linear(tanh(h), weight)), 0.3);
  }

  Tensor forward(bool recompute) const {
    context().random = {.seed = 7};
    Tensor h = x;
    for (const Tensor& weight : weights) {
      const auto f = [this, weight](const Tensor& in) { return block(in, weight); };
      h = recompute ? checkpoint(f, h) : f(h);
    }
    return sum(square(h));
  }

  std::vector<std::vector<double>> gradients() {
    std::vector<std::vector<double>> all;
    for (const Tensor& weight : weights) all.push_back(weight.grad().to_vector<double>());
    all.push_back(x.grad().to_vector<double>());
    return all;
  }
};

TEST(Checkpoint, GradientsAreTheSameToTheBitWithDropout) {
  Network plain, recomputed;
  const Tensor a = plain.forward(false), b = recomputed.forward(true);
  EXPECT_EQ(a.item(), b.item());
  const uint32_t drawn = context().random.operation;
  a.backward();
  b.backward();
  EXPECT_EQ(plain.gradients(), recomputed.gradients());
  EXPECT_EQ(context().random.operation, drawn) << "the second forward pass drew for itself";
  EXPECT_TRUE(recording());
  EXPECT_FALSE(context().recomputing);
}

TEST(Checkpoint, MemoryPeakFalls) {
  const auto peak_of = [](bool recompute) {
    Network network(64, 16);
    network.x = Tensor::variable(random_array({512, 64}, 1));
    const Tensor loss = network.forward(recompute);
    const int64_t held = backend_of({}).statistics().in_use_bytes;
    loss.backward();
    return held;
  };
  const int64_t without = peak_of(false), with = peak_of(true);
  const int64_t activation = 512 * 64 * 8;
  EXPECT_LT(with, without - 16 * activation) << "at least one activation less in each block";
}

TEST(Checkpoint, HooksFireOnceForATiedParameterAndForTheInput) {
  const Tensor weight = Tensor::variable(random_array({5, 5}, 2));
  const Tensor x = Tensor::variable(random_array({4, 5}, 1));
  Leaf& leaf = static_cast<Leaf&>(*weight.node());
  int fired = 0, seen = 0, seen_of_input = 0;
  leaf.set_hook([&] { ++fired; });
  const auto f = [weight](const Tensor& h) { return linear(tanh(linear(h, weight)), weight); };
  checkpoint(f, checkpoint(f, x)).sum().backward();
  EXPECT_EQ(fired, 1);
  weight.register_hook([&](const Tensor&) { ++seen; });
  x.register_hook([&](const Tensor&) { ++seen_of_input; });
  checkpoint(f, checkpoint(f, x)).sum().backward();
  EXPECT_EQ(fired, 2);
  EXPECT_EQ(seen, 1);
  EXPECT_EQ(seen_of_input, 1);
}

// The input is computed from the parameter that the function captures, and another captured tensor
// is an intermediate one: each path counts once.
TEST(Checkpoint, CapturedTensorsThatDependOnEachOther) {
  const auto run = [](bool recompute, const Tensor& p) {
    const Tensor h = p * p, x = tanh(h) * p;
    const auto f = [p, h, x](const Tensor& in) { return in * p * h + sin(x) * in; };
    const Tensor y = recompute ? checkpoint(f, x) : f(x);
    return sum(y * h + y);
  };
  const Tensor a = Tensor::variable(random_array({3}, 1)), b = a.clone().detach().requires_grad_();
  run(false, a).backward();
  run(true, b).backward();
  for (int i = 0; i < 3; ++i) {
    EXPECT_NEAR(a.grad().to_vector<double>()[i], b.grad().to_vector<double>()[i], 1e-14);
  }
  testing::expect_gradients([&](const auto& in) { return run(true, in[0]); },
                            {random_array({3}, 1)});
  testing::expect_second_gradients([&](const auto& in) { return run(true, in[0]); },
                                   {random_array({3}, 1)});
}

TEST(Checkpoint, CanBeDifferentiatedAgain) {
  const auto f = [](const auto& in) {
    const auto inner = [weight = in[1]](const Tensor& h, const Tensor& k) {
      return tanh(linear(h, weight)) * k;
    };
    return checkpoint(inner, in[0], in[0]) + checkpoint(inner, in[0], square(in[0]));
  };
  const std::vector<Array> inputs{random_array({2, 3}, 1), random_array({3, 3}, 2)};
  testing::expect_gradients(f, inputs);
  testing::expect_second_gradients(f, inputs);
}

TEST(Checkpoint, Nests) {
  const Tensor weight = Tensor::variable(random_array({5, 5}, 2));
  const auto run = [&](bool recompute) {
    context().random = {.seed = 3};
    const auto inner = [=](const Tensor& h) { return dropout(tanh(linear(h, weight)), 0.5); };
    const auto outer = [=](const Tensor& h) {
      return recompute ? dropout(checkpoint(inner, square(h)), 0.5)
                       : dropout(inner(square(h)), 0.5);
    };
    const Tensor x{random_array({4, 5}, 1)};
    weight.zero_grad();
    sum(recompute ? checkpoint(outer, x) : outer(x)).backward();
    return weight.grad().to_vector<double>();
  };
  EXPECT_EQ(run(false), run(true));
}

TEST(Checkpoint, SeveralOutputsOfWhichSomeAreUsed) {
  const Tensor x = Tensor::variable(random_array({4}, 1));
  const auto f = [](const Tensor& in) {
    return std::vector<Tensor>{tanh(in), in > Tensor(0.0), square(in), in};
  };
  const std::vector<Tensor> y = checkpoint(f, x);
  ASSERT_EQ(y.size(), 4u);
  EXPECT_FALSE(y[1].requires_grad()) << "a mask is a constant";
  sum(y[2] * 3.0 + y[3]).backward();
  for (int i = 0; i < 4; ++i) {
    EXPECT_DOUBLE_EQ(x.grad().to_vector<double>()[i], 6 * x.to_vector<double>()[i] + 1);
  }
}

TEST(Checkpoint, ParametersAloneAndConstantsAlone) {
  const Tensor weight = Tensor::variable(random_array({5, 5}, 2));
  const Tensor x{random_array({4, 5}, 1)};
  sum(checkpoint([&](const Tensor& h) { return linear(h, weight); }, x)).backward();
  EXPECT_TRUE(weight.grad());
  const auto constant = [](const Tensor& h) { return tanh(h); };
  EXPECT_FALSE(checkpoint(constant, x).requires_grad());
  const NoGrad no_grad;
  EXPECT_FALSE(checkpoint(constant, weight).requires_grad());
}

TEST(Checkpoint, UnusedCapturedTensorsGetNothing) {
  const Tensor used = Tensor::variable(random_array({3}, 1));
  const Tensor looked_at = Tensor::variable(random_array({3}, 2));
  int fired = 0;
  static_cast<Leaf&>(*looked_at.node()).set_hook([&] { ++fired; });
  const auto f = [&](const Tensor& in) { return in * used * sum(looked_at).detach(); };
  sum(checkpoint(f, Tensor(random_array({3}, 3)))).backward();
  EXPECT_TRUE(used.grad());
  EXPECT_FALSE(looked_at.grad());
  EXPECT_EQ(fired, 0);
}

// The first run is not recorded, but must not write where the second one reads.
TEST(Checkpoint, InPlaceOperatorsLeaveTheInputsAlone) {
  const auto run = [](bool recompute, const Tensor& x, const Tensor& weight) {
    const auto f = [weight](const Tensor& in) {
      Tensor h = in, w = weight;
      h += tanh(h * w);
      h *= w;
      w -= 0.5;
      h /= w * w;
      return h;
    };
    return sum(recompute ? checkpoint(f, x) : f(x));
  };
  const std::vector<Array> inputs{random_array({3}, 1), random_array({3}, 2)};
  const std::vector<Tensor> plain = testing::variables(inputs), again = testing::variables(inputs);
  const Tensor expected = run(false, plain[0], plain[1]), found = run(true, again[0], again[1]);
  EXPECT_EQ(found.item(), expected.item());
  expected.backward();
  found.backward();
  for (size_t i = 0; i < inputs.size(); ++i) {
    EXPECT_EQ(again[i].to_vector<double>(), inputs[i].to_vector<double>());
    EXPECT_EQ(again[i].grad().to_vector<double>(), plain[i].grad().to_vector<double>());
  }
}

// As outside of a checkpoint: written in place, both times, and without a gradient.
TEST(Checkpoint, UnderNoGradInsideNothingIsNoted) {
  const Tensor x = Tensor::variable(random_array({3}, 1));
  const Tensor average = Tensor::variable(Array::full({3}, 8, DType::f64));
  const auto f = [&](const Tensor& in) {
    {
      const NoGrad no_grad;
      Tensor moving = average;
      moving *= 0.5;
    }
    Tensor h = in;
    h += 1.0;  // noted again
    return h * h;
  };
  const Tensor y = sum(checkpoint(f, x));
  EXPECT_EQ(average.to_vector<double>(), std::vector<double>(3, 4));
  y.backward();
  EXPECT_EQ(average.to_vector<double>(), std::vector<double>(3, 2));
  EXPECT_FALSE(average.grad());
  EXPECT_DOUBLE_EQ(x.grad().to_vector<double>()[0], 2 * (x.to_vector<double>()[0] + 1));
}

TEST(Checkpoint, WhatIsReturnedUnreadGetsItsGradient) {
  const auto run = [](bool recompute, const std::vector<Tensor>& in) {
    const Tensor &x = in[0], &weight = in[1], skip = in[2] * 3.0;
    const auto f = [=](const Tensor& h, const Tensor& given) {
      return std::vector<Tensor>{tanh(h), weight, skip, given, x, weight.detach()};
    };
    const std::vector<Tensor> out = recompute ? checkpoint(f, x, skip) : f(x, skip);
    return sum(out[0] * out[1] * out[2] * out[3] + out[4] * out[5]);
  };
  const std::vector<Array> inputs{random_array({3}, 1), random_array({3}, 2), random_array({3}, 3)};
  const std::vector<Tensor> plain = testing::variables(inputs), again = testing::variables(inputs);
  run(false, plain).backward();
  run(true, again).backward();
  for (size_t i = 0; i < inputs.size(); ++i) {
    ASSERT_TRUE(again[i].grad()) << i;
    const auto found = again[i].grad().to_vector<double>();
    const auto expected = plain[i].grad().to_vector<double>();
    for (size_t j = 0; j < found.size(); ++j) EXPECT_NEAR(found[j], expected[j], 1e-14);
  }
  testing::expect_second_gradients(
      [&](const std::vector<Tensor>& in) {
        const auto f = [&](const Tensor& h) { return std::vector<Tensor>{tanh(h), in[1]}; };
        const std::vector<Tensor> out = checkpoint(f, in[0]);
        return out[0] * square(out[1]);
      },
      {inputs[0], inputs[1]});
}

// Nothing else of it requires a gradient: the node is there for what is returned alone.
TEST(Checkpoint, OfConstantsThatReturnsAParameter) {
  const Tensor weight = Tensor::variable(random_array({3}, 1));
  const Tensor x{random_array({3}, 2)};
  const auto f = [&](const Tensor& h) { return std::vector<Tensor>{h * 2.0, weight}; };
  const std::vector<Tensor> out = checkpoint(f, x);
  sum(out[0] * out[1]).backward();
  ASSERT_TRUE(weight.grad());
  EXPECT_DOUBLE_EQ(weight.grad().to_vector<double>()[0], 2 * x.to_vector<double>()[0]);
}

TEST(Checkpoint, AutocastIsAsItWas) {
  const Tensor weight = Tensor::variable(Array::full({5, 5}, 0.1, DType::f32));
  const Tensor x = Tensor::variable(Array::full({4, 5}, 0.3, DType::f32));
  std::vector<DType> seen;
  const auto f = [&](const Tensor& in) {
    const Tensor y = matmul(in, weight);
    seen.push_back(y.dtype());
    return y;
  };
  Tensor y;
  {
    const Autocast autocast(DType::bf16);
    y = checkpoint(f, x);
  }
  sum(y).backward();
  EXPECT_EQ(seen, (std::vector<DType>{DType::bf16, DType::bf16}));
  EXPECT_EQ(weight.grad().dtype(), DType::f32);
  EXPECT_EQ(x.grad().dtype(), DType::f32);
}

TEST(Checkpoint, BatchIsCountedOnceInRunningStatistics) {
  const Tensor x = Tensor::variable(random_array({8, 3}, 1));
  const Array mean = Array::zeros({3}, DType::f64), variance = Array::full({3}, 1, DType::f64);
  const auto norm = [&](const Tensor& in) {
    return batch_norm(in, mean, variance, {}, {}, {.training = true});
  };
  const Tensor y = sum(square(checkpoint(norm, x)) * x);
  const auto once = mean.to_vector<double>();
  EXPECT_NE(once[0], 0);
  y.backward();
  EXPECT_EQ(mean.to_vector<double>(), once);
}

TEST(CheckpointErrors, ChangedInBetween) {
  const Tensor x = Tensor::variable(random_array({3}, 1));
  const Tensor weight = Tensor::variable(random_array({3}, 2));
  const Tensor y = sum(checkpoint([&](const Tensor& in) { return in * weight; }, x));
  kernels::fill(weight.value(), 1);
  const std::string message = message_of([&] { y.backward(); });
  EXPECT_NE(message.find("backward of checkpoint"), std::string::npos) << message;
  EXPECT_NE(message.find("changed in place"), std::string::npos) << message;
}

TEST(CheckpointErrors, ComputesSomethingElseTheSecondTime) {
  const Tensor x = Tensor::variable(random_array({3}, 1));
  int runs = 0;
  const Tensor y =
      checkpoint([&](const Tensor& in) { return ++runs == 1 ? in * 2.0 : sum(in); }, x);
  const std::string message = message_of([&] { sum(y).backward(); });
  EXPECT_NE(message.find("output 0 had shape [3] at first and [] when run again"),
            std::string::npos)
      << message;
}

}  // namespace
}  // namespace lockstep
