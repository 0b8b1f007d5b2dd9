#include "lockstep/autograd/ops/loss.h"

#include <cmath>

#include "differentiable_case.h"
#include "lockstep/autograd/ops/normalization.h"
#include "lockstep/autograd/ops/shape.h"

namespace lockstep::testing {
namespace {

constexpr Reduction kReductions[] = {Reduction::mean, Reduction::sum, Reduction::none};

TEST(Loss, GradientsOfPairs) {
  const Array x = random_array({2, 3}, 1, 0.1, 0.9), y = random_array({2, 3}, 2, 0.1, 0.9);
  const Array far = random_array({2, 3}, 3, -3, 3), weight = random_array({3}, 4, 0.5, 2);
  const Array row = random_array({3}, 5);
  for (const Reduction r : kReductions) {
    const std::vector<DifferentiableCase> cases = {
        {"mse", [=](const auto& in) { return mse_loss(in[0], in[1], r); }, {x, row}},
        {"l1",
         [=](const auto& in) { return l1_loss(in[0], in[1], r) + sum(in[0] * in[1]); },
         {x, far}},
        {"smooth_l1",
         [=](const auto& in) { return smooth_l1_loss(in[0], in[1], r, 0.7); },
         {x, far}},
        {"huber", [=](const auto& in) { return huber_loss(in[0], in[1], r, 0.7); }, {x, far}},
        {"binary",
         [=](const auto& in) {
           return binary_cross_entropy(in[0], in[1], {weight, {}, r});
         },
         {x, y}},
        {"logits",
         [=](const auto& in) {
           return binary_cross_entropy_with_logits(in[0], in[1], {weight, weight, r});
         },
         {far, y}},
        {"kl_div", [=](const auto& in) { return kl_div(in[0], in[1], r); }, {far, y}},
        {"kl_div of logarithms",
         [=](const auto& in) { return kl_div(in[0], in[1], r, true); },
         {far, far}},
    };
    for (const DifferentiableCase& c : cases) expect_differentiable(c);
  }
}

TEST(Loss, GradientsOfClasses) {
  const Array rows = random_array({3, 4}, 1), image = random_array({2, 4, 3}, 1);
  const Tensor of_rows(Array::from<int64_t>({1, 3, 9}, {3}));
  const Tensor of_image(Array::from<int64_t>({1, 3, 9, 0, 2, 1}, {2, 3}));
  const Tensor weight(random_array({4}, 2, 0.5, 2));
  const Array shares = random_array({2, 4, 3}, 3, 0.1, 1);
  for (const Reduction r : kReductions) {
    const std::vector<DifferentiableCase> cases = {
        {"indices",
         [=](const auto& in) {
           return cross_entropy(in[0], of_image, {{}, 9, 0, r});
         },
         {image}},
        {"weight",
         [=](const auto& in) {
           return cross_entropy(in[0], of_rows, {weight, 9, 0, r});
         },
         {rows}},
        {"smoothing",
         [=](const auto& in) {
           return cross_entropy(in[0], of_image, {{}, 9, 0.2, r});
         },
         {image}},
        {"weight and smoothing",
         [=](const auto& in) {
           return cross_entropy(in[0], of_image, {weight, 9, 0.2, r});
         },
         {image}},
        {"probabilities",
         [=](const auto& in) {
           return cross_entropy(in[0], in[1], {weight, 0, 0.2, r});
         },
         {image, shares}},
        {"nll",
         [=](const auto& in) {
           return nll_loss(square(in[0]), of_image, {weight, 9, r});
         },
         {image}},
    };
    for (const DifferentiableCase& c : cases) expect_differentiable(c);
  }
}

// Every form of class indices is the fused one with other weights.
TEST(Loss, FormsOfCrossEntropyAgree) {
  const Tensor x(random_array({2, 4, 3}, 1)), ones(Array::full({4}, 1, DType::f64));
  const Tensor targets(Array::from<int64_t>({1, 3, 2, 0, -100, 1}, {2, 3}));
  const Tensor indices32 = to(targets, DType::i32);
  for (const Reduction r : kReductions) {
    const Tensor fused = cross_entropy(x, targets, {.reduction = r});
    expect_all_near(cross_entropy(x, indices32, {.reduction = r}), fused, 0);
    expect_all_near(cross_entropy(x, targets, {.weight = ones, .reduction = r}), fused, 1e-14);
    expect_all_near(nll_loss(log_softmax(x, 1), targets, {.reduction = r}), fused, 1e-14);
  }
  const Tensor one =
      cross_entropy(select(x, 2, 0), select(targets, 1, 0), {.reduction = Reduction::none});
  expect_all_near(cross_entropy(select(select(x, 2, 0), 0, 1), select(select(targets, 1, 0), 0, 1)),
                  select(one, 0, 1), 1e-14);
}

TEST(Loss, AllTargetsIgnored) {
  const Tensor x = Tensor::variable(random_array({2, 3}, 1));
  const Tensor weight(Array::full({3}, 2, DType::f64));
  const Tensor targets(Array::full({2}, -100, DType::i64));
  for (const CrossEntropyOptions& options :
       {CrossEntropyOptions{}, {.weight = weight}, {.label_smoothing = 0.1}}) {
    x.zero_grad();
    const Tensor mean = cross_entropy(x, targets, options);
    EXPECT_TRUE(std::isnan(mean.item()));
    const Tensor recorded = grad(mean, x, {.create_graph = true});
    mean.backward();
    for (const Tensor& gradient : {x.grad(), recorded}) {
      for (double g : gradient.to_vector<double>()) EXPECT_EQ(g, 0);
    }
    CrossEntropyOptions of_sum = options;
    of_sum.reduction = Reduction::sum;
    EXPECT_EQ(cross_entropy(x, targets, of_sum).item(), 0);
  }
}

// ignore_index may be a number that would be no class, on either side.
TEST(Loss, TargetsOutOfRange) {
  const Tensor x(random_array({3, 4}, 1)), weight(Array::full({4}, 1, DType::f64));
  const auto targets = [](int64_t odd) {
    return Tensor(Array::from<int64_t>({-100, odd, 1}, {3}));
  };
  for (int64_t odd : {-5L, 4L}) {
    for (const CrossEntropyOptions& options : {CrossEntropyOptions{}, {.weight = weight}}) {
      EXPECT_THROW(cross_entropy(x, targets(odd), options), Error);
    }
    EXPECT_THROW(nll_loss(x, targets(odd)), Error);
  }
  const Tensor high(Array::from<int64_t>({7, 0, 1}, {3}));
  EXPECT_TRUE(std::isfinite(cross_entropy(x, high, {.ignore_index = 7}).item()));
  EXPECT_TRUE(std::isfinite(nll_loss(x, high, {.ignore_index = 7}).item()));
}

TEST(Loss, EveryDtype) {
  const Array x = random_array({3, 4}, 1, 0.1, 0.9), y = random_array({3, 4}, 2, 0.1, 0.9);
  const Tensor targets(Array::from<int64_t>({1, 3, -100}, {3}));
  using Tensors = std::vector<Tensor>;
  expect_all_dtypes([=](const Tensors& in) { return cross_entropy(in[0], targets); }, {x});
  for (const Function& f : std::vector<Function>{
           [](const Tensors& in) { return cross_entropy(in[0], in[1]); },
           [](const Tensors& in) { return mse_loss(in[0], in[1]); },
           [](const Tensors& in) { return huber_loss(in[0], in[1]); },
           [](const Tensors& in) { return binary_cross_entropy(in[0], in[1]); },
           [](const Tensors& in) { return binary_cross_entropy_with_logits(in[0], in[1]); },
           [](const Tensors& in) { return kl_div(in[0], in[1]); }}) {
    expect_all_dtypes(f, {x, y});
  }
}

TEST(Loss, CornersOfTheBinaryOnes) {
  const Tensor x = Tensor::variable(Array::from<double>({0, 1, 0, 1}, {4}));
  const Tensor target(Array::from<double>({0, 0, 1, 1}, {4}));
  const Tensor losses = binary_cross_entropy(x, target, {.reduction = Reduction::none});
  expect_all_near(losses, Array::from<double>({0, 100, 100, 0}, {4}), 0);
  sum(losses).backward();
  const double steepest = 1 / static_cast<double>(1e-12f);
  expect_all_near(x.grad(), Array::from<double>({0, steepest, -steepest, 0}, {4}), 1e-12);
  const Tensor large = Tensor::variable(Array::from<double>({1000, -1000}, {2}));
  const Tensor of_logits = binary_cross_entropy_with_logits(
      large, Tensor(Array::from<double>({0, 1}, {2})), {.reduction = Reduction::none});
  expect_all_near(of_logits, Array::from<double>({1000, 1000}, {2}), 0);
  sum(of_logits).backward();
  expect_all_near(large.grad(), Array::from<double>({1, -1}, {2}), 0);
}

TEST(Loss, TheBinaryGradientAtTheEdgeIsBoundedByPyTorchsFloat) {
  const Tensor x = Tensor::variable(Array::full({}, 0, DType::f64));
  binary_cross_entropy(x, Tensor(Array::full({}, 1, DType::f64))).backward();
  EXPECT_DOUBLE_EQ(x.grad().item(), -1 / static_cast<double>(1e-12f));
}

TEST(Loss, ATargetOfZeroAddsNothingToADivergence) {
  const double infinity = std::numeric_limits<double>::infinity();
  const Tensor x = Tensor::variable(Array::from<double>({-1, -infinity, -0.5}, {3}));
  const Tensor target = Tensor::variable(Array::from<double>({0, 0, 1}, {3}));
  const Tensor loss = kl_div(x, target, Reduction::sum);
  EXPECT_EQ(loss.item(), 0.5);
  loss.backward();
  expect_all_near(x.grad(), Array::from<double>({0, 0, -1}, {3}), 0);
  expect_all_near(target.grad(), Array::from<double>({0, 0, 1.5}, {3}), 0);
  const Tensor two(random_array({2, 3}, 1, 0.1, 1));
  EXPECT_NEAR(kl_div(two, two, Reduction::batchmean).item() * 2,
              kl_div(two, two, Reduction::sum).item(), 1e-14);
}

TEST(Loss, NothingGivesNaN) {
  const Tensor x = Tensor::variable(Array::zeros({0, 3}, DType::f64));
  const Tensor targets(Array::zeros({0}, DType::i64));
  for (const Tensor& loss : {cross_entropy(x, targets), cross_entropy(x, x), nll_loss(x, targets),
                             mse_loss(x, x), kl_div(x, x), huber_loss(x, x)}) {
    EXPECT_TRUE(std::isnan(loss.item()));
    loss.backward();
    EXPECT_EQ(x.grad().shape(), x.shape());
  }
  EXPECT_EQ(cross_entropy(x, targets, {.reduction = Reduction::sum}).item(), 0);
}

TEST(Loss, Errors) {
  const Tensor x(random_array({3, 4}, 1)), other(random_array({2, 4}, 1)), none;
  const Tensor targets(Array::from<int64_t>({1, 3, 0}, {3})), scalar(random_array({}, 1));
  const Tensor short_weight(random_array({3}, 1));
  for (const Tensor& wrong : {none, targets, scalar, other}) {
    expect_error("cross_entropy", [&] { cross_entropy(wrong, targets); });
    expect_error("nll_loss", [&] { nll_loss(wrong, targets); });
  }
  for (const Tensor& wrong : {none, short_weight, other, to(targets, DType::boolean)}) {
    expect_error("cross_entropy", [&] { cross_entropy(x, wrong); });
    expect_error("nll_loss", [&] { nll_loss(x, wrong); });
  }
  expect_error("cross_entropy", [&] { cross_entropy(x, targets, {.weight = short_weight}); });
  expect_error("cross_entropy", [&] { cross_entropy(x, targets, {.label_smoothing = 1.5}); });
  const Reduction batchmean = Reduction::batchmean;
  expect_error("cross_entropy", [&] { cross_entropy(x, targets, {.reduction = batchmean}); });
  for (const auto& [a, b] : {std::pair(x, other), {x, none}, {none, x}, {targets, x}}) {
    expect_error("mse_loss", [&] { mse_loss(a, b); });
    expect_error("l1_loss", [&] { l1_loss(a, b); });
    expect_error("smooth_l1_loss", [&] { smooth_l1_loss(a, b); });
    expect_error("huber_loss", [&] { huber_loss(a, b); });
    expect_error("binary_cross_entropy", [&] { binary_cross_entropy(a, b); });
    expect_error("binary_cross_entropy_with_logits",
                 [&] { binary_cross_entropy_with_logits(a, b); });
    expect_error("kl_div", [&] { kl_div(a, b); });
  }
  expect_error("mse_loss", [&] { mse_loss(x, x, batchmean); });
  expect_error("huber_loss", [&] { huber_loss(x, x, Reduction::mean, 0); });
  expect_error("smooth_l1_loss", [&] { smooth_l1_loss(x, x, Reduction::mean, -1); });
  expect_error("binary_cross_entropy",
               [&] { binary_cross_entropy(x, x, {.weight = short_weight}); });
  expect_error("binary_cross_entropy", [&] { binary_cross_entropy(x, x, {.pos_weight = x}); });
}

}  // namespace
}  // namespace lockstep::testing
