#include "lockstep/autograd/autocast.h"

#include <gtest/gtest.h>

#include <cmath>
#include <optional>

#include "lockstep/autograd/checkpoint.h"
#include "lockstep/autograd/ops.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "support/gradient_check.h"

namespace lockstep {
namespace {

Array random_f32(Shape shape, uint64_t seed) {
  return kernels::cast(testing::random_array(shape, seed), DType::f32);
}

std::string message_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

struct Case {
  std::string name;
  std::function<Tensor(const Tensor& x, const Tensor& half)> run;  // x f32, half bf16: [4, 4]
  DType expected;
};

const std::vector<Case>& cases() {
  using T = const Tensor&;
  constexpr DType low = DType::bf16, high = DType::f32;
  static const std::vector<Case> all = {
      {"matmul", [](T x, T) { return matmul(x, x); }, low},
      {"matmul_mixed", [](T x, T half) { return matmul(half, x); }, low},
      {"matvec", [](T x, T) { return matmul(x, select(x, 0, 0)); }, low},
      {"bmm", [](T x, T) { return bmm(unsqueeze(x, 0), unsqueeze(x, 0)); }, low},
      {"addmm", [](T x, T) { return addmm(x, x, x); }, low},
      {"linear", [](T x, T) { return linear(x, x, select(x, 0, 0)); }, low},
      {"einsum",
       [](T x, T) {
         return einsum("ij,jk->ik", {x, x});
       },
       low},
      {"conv2d",
       [](T x, T) {
         return conv2d(reshape(x, {1, 1, 4, 4}), reshape(x, {1, 1, 4, 4}));
       },
       low},
      {"attention",
       [](T x, T) {
         const Tensor q = reshape(x, {1, 1, 4, 4});
         return scaled_dot_product_attention(q, q, q);
       },
       low},
      {"exp", [](T, T half) { return exp(half); }, high},
      {"log", [](T, T half) { return log(half); }, high},
      {"rsqrt", [](T, T half) { return rsqrt(half); }, high},
      {"softplus", [](T, T half) { return softplus(half); }, high},
      {"pow", [](T, T half) { return pow(half, 2.0); }, high},
      {"sum", [](T, T half) { return sum(half); }, high},
      {"prod", [](T, T half) { return prod(half); }, high},
      {"cumsum", [](T, T half) { return cumsum(half, 0); }, high},
      {"logsumexp", [](T, T half) { return logsumexp(half); }, high},
      {"norm", [](T, T half) { return norm(half); }, high},
      {"softmax", [](T, T half) { return softmax(half); }, high},
      {"log_softmax", [](T, T half) { return log_softmax(half, 0); }, high},
      {"layer_norm", [](T x, T half) { return layer_norm(half, {4}, select(x, 0, 0)); }, high},
      {"rms_norm", [](T, T half) { return rms_norm(half, {4}); }, high},
      {"group_norm", [](T, T half) { return group_norm(half, 2); }, high},
      {"batch_norm",
       [](T x, T half) {
         return batch_norm(half, {}, {}, select(x, 0, 0), select(x, 0, 1), {.training = true});
       },
       low},
      {"mse_loss", [](T x, T half) { return mse_loss(half, x); }, high},
      {"cross_entropy",
       [](T, T half) {
         return cross_entropy(half, Tensor(Array::from<int64_t>({0, 1, 2, 3}, {4})));
       },
       high},
      {"kl_div", [](T, T half) { return kl_div(half, half); }, high},
      {"relu", [](T, T half) { return relu(half); }, low},
      {"tanh", [](T x, T) { return tanh(x); }, high},
      {"mean", [](T, T half) { return mean(half); }, low},
      {"add_promotes", [](T x, T half) { return x + half; }, high},
      {"where", [](T x, T half) { return where(x > Tensor(0.0), half, half); }, low},
  };
  return all;
}

// The dtypes of torch.autocast on its accelerators.
TEST(Autocast, DtypeOfEachOp) {
  const Tensor x{random_f32({4, 4}, 1)};
  const Tensor positive = abs(x) + 0.5;
  const Tensor half = to(positive, DType::bf16);
  const Autocast autocast(DType::bf16);
  for (const Case& c : cases()) EXPECT_EQ(c.run(positive, half).dtype(), c.expected) << c.name;
}

TEST(Autocast, IsOffOutsideNestsAndLeavesOtherDtypesAlone) {
  const Tensor x{random_f32({4, 4}, 1)};
  const Tensor wide = to(x, DType::f64);
  EXPECT_EQ(matmul(x, x).dtype(), DType::f32);
  {
    const Autocast autocast(DType::f16);
    EXPECT_EQ(matmul(x, x).dtype(), DType::f16);
    EXPECT_EQ(matmul(wide, wide).dtype(), DType::f64);
    {
      const Autocast off = Autocast::off();
      EXPECT_EQ(matmul(x, x).dtype(), DType::f32);
    }
    EXPECT_EQ(matmul(x, x).dtype(), DType::f16);
  }
  EXPECT_EQ(matmul(x, x).dtype(), DType::f32);
  EXPECT_NE(message_of([] { Autocast(DType::f32); }).find("expected bf16 or f16"),
            std::string::npos);
}

TEST(Autocast, TwoLayersFollowF32) {
  const Tensor x{random_f32({16, 32}, 1)};
  const Tensor targets{random_f32({16, 8}, 2)};
  const auto run = [&](bool on, std::vector<std::vector<float>>& gradients) {
    const Tensor w1 = Tensor::variable(random_f32({64, 32}, 3));
    const Tensor b1 = Tensor::variable(random_f32({64}, 4));
    const Tensor w2 = Tensor::variable(random_f32({8, 64}, 5));
    Tensor loss;
    const auto forward = [&] {
      return mse_loss(linear(gelu(linear(x, w1, b1) / 6.0), w2) / 8.0, targets);
    };
    if (on) {
      const Autocast autocast(DType::bf16);
      loss = forward();
    } else {
      loss = forward();
    }
    EXPECT_EQ(loss.dtype(), DType::f32);
    loss.backward();
    for (const Tensor& w : {w1, b1, w2}) {
      EXPECT_EQ(w.grad().dtype(), DType::f32);
      gradients.push_back(w.grad().to_vector<float>());
    }
    return loss.item();
  };
  std::vector<std::vector<float>> expected, found;
  const double a = run(false, expected), b = run(true, found);
  EXPECT_NEAR(a, b, 0.01 * a);
  EXPECT_NE(a, b) << "nothing was computed in 16 bits";
  for (size_t i = 0; i < expected.size(); ++i) {
    double error = 0, size = 0;
    for (size_t j = 0; j < expected[i].size(); ++j) {
      error += std::pow(found[i][j] - expected[i][j], 2);
      size += std::pow(expected[i][j], 2);
    }
    EXPECT_LT(std::sqrt(error / size), 0.02) << "gradient " << i;
  }
}

TEST(Autocast, ParametersAreConvertedOnceForAWholeStorage) {
  const Array flat = random_f32({40}, 1);
  const Tensor a = Tensor::variable(flat.narrow(0, 0, 16).reshape({4, 4}));
  const Tensor b = Tensor::variable(flat.narrow(0, 16, 16).reshape({4, 4}));
  LowPrecisionCopies copies(DType::bf16);
  const Tensor x{random_f32({2, 4}, 2)};
  {
    const Autocast autocast(copies);
    matmul(matmul(x, a), b);
    matmul(x, b.t());
  }
  EXPECT_EQ(copies.bytes(), 40 * 2);
  const Array copy = copies.of(b.value());
  EXPECT_EQ(copy.shape(), (Shape{4, 4}));
  EXPECT_EQ(Tensor(copy).to_vector<float>(), to(Tensor(b.value()), DType::bf16).to_vector<float>());
  const void* before = copy.data();
  kernels::fill(b.value(), 3);  // an optimizer's step
  EXPECT_EQ(copies.of(b.value()).data(), before) << "the same memory";
  EXPECT_EQ(Tensor(copies.of(b.value())).to_vector<float>(), std::vector<float>(16, 3.0f));
  EXPECT_EQ(Tensor(copies.of(a.value())).to_vector<float>(),
            to(Tensor(a.value()), DType::bf16).to_vector<float>());
}

TEST(Autocast, FrozenParametersAreReadFromTheCopyToo) {
  const Array flat = random_f32({32}, 1);
  const Tensor trained = Tensor::variable(flat.narrow(0, 0, 16).reshape({4, 4}));
  const Tensor frozen(flat.narrow(0, 16, 16).reshape({4, 4}));
  LowPrecisionCopies copies(DType::bf16);
  const Tensor x{random_f32({2, 4}, 2)};
  const Autocast autocast(copies);
  matmul(x, trained);
  EXPECT_TRUE(copies.holds(frozen.value()));
  EXPECT_FALSE(copies.holds(x.value()));
  EXPECT_EQ(matmul(x, frozen).to_vector<float>(),
            matmul(x, to(frozen, DType::bf16)).to_vector<float>());
  EXPECT_EQ(copies.conversions(), 1);
}

TEST(Autocast, ACopyThatIsProvidedStandsForAMasterWithoutMemory) {
  const Array flat = random_f32({256}, 1);
  const Array gathered = kernels::cast(flat, DType::bf16);
  const Tensor a = Tensor::variable(flat.narrow(0, 0, 128).reshape({8, 16}));
  const Tensor frozen(flat.narrow(0, 128, 128).reshape({8, 16}));
  const Tensor x{random_f32({2, 8}, 2)};
  LowPrecisionCopies copies(DType::bf16);
  const auto run = [&] {
    const Autocast autocast(copies);
    const Tensor loss = sum(matmul(x, a)) + sum(matmul(x, frozen));
    a.zero_grad();
    loss.backward();
    return std::pair(loss.item(), a.grad().to_vector<float>());
  };
  const auto expected = run();
  copies.provide(flat.storage(), gathered);
  EXPECT_FALSE(copies.current(a.value())) << "it is its provider's";
  flat.storage()->release_memory();
  flat.storage()->bump_version();
  EXPECT_EQ(run(), expected);
  EXPECT_EQ(copies.conversions(), 1);

  flat.storage()->attach();
  kernels::fill(flat, 2);
  copies.withdraw(*flat.storage());
  EXPECT_EQ(copies.of(a.value()).to_vector<float>(), std::vector<float>(128, 2));
  EXPECT_TRUE(copies.current(a.value()));
  EXPECT_THROW(copies.provide(flat.storage(), gathered.narrow(0, 0, 128)), Error);
}

TEST(Autocast, GradientOfAGradient) {
  const Tensor w = Tensor::variable(random_f32({4, 4}, 1));
  const Tensor x{random_f32({2, 4}, 2)};
  Tensor loss;
  {
    const Autocast autocast;
    loss = sum(square(matmul(x, w)));
  }
  const Tensor first = grad(loss, w, {.create_graph = true});
  EXPECT_EQ(first.dtype(), DType::f32);
  // The Hessian is 2 xᵀx for every column.
  const Tensor second = grad(sum(first), w);
  const Tensor expected = matmul(x.t(), sum(x, {1}, true)) * 2.0;
  for (int i = 0; i < 4; ++i) {
    EXPECT_NEAR(second.to_vector<float>()[4 * i], expected.to_vector<float>()[i], 0.05);
  }
}

// A recomputation reads the copies that outlive the scope, and makes its own of those that do not.
TEST(Autocast, RecomputationReadsTheSameCopies) {
  const Tensor weight = Tensor::variable(random_f32({4, 4}, 1));
  const Tensor x = Tensor::variable(random_f32({2, 4}, 2));
  LowPrecisionCopies copies(DType::bf16);
  std::vector<std::vector<float>> gradients;
  for (bool lasting : {true, false}) {
    weight.zero_grad();
    Tensor y;
    {
      std::optional<Autocast> autocast;
      lasting ? autocast.emplace(copies) : autocast.emplace(DType::bf16);
      y = checkpoint([&](const Tensor& input) { return tanh(matmul(input, weight)); }, x);
    }
    sum(y).backward();
    gradients.push_back(weight.grad().to_vector<float>());
  }
  EXPECT_EQ(copies.conversions(), 1);
  EXPECT_EQ(gradients[0], gradients[1]);
}

}  // namespace
}  // namespace lockstep
