#include "lockstep/autograd/ops/normalization.h"

#include <cmath>
#include <numeric>

#include "differentiable_case.h"
#include "lockstep/autograd/ops/dropout.h"

namespace lockstep::testing {
namespace {

using Tensors = std::vector<Tensor>;

Array channels_last(const Array& x) {
  const std::vector<int> there{0, 2, 3, 1}, back{0, 3, 1, 2};
  return kernels::copy(x.permute(there)).permute(back);
}

const BatchNormOptions kTraining{.training = true};

TEST(Normalization, GradientsOfRowNorms) {
  const Array x = random_array({3, 2, 4}, 1);
  const std::vector<DifferentiableCase> cases = {
      {"softmax of dimension 1", [](const auto& in) { return softmax(in[0], 1); }, {x}},
      {"softmax of dimension 0", [](const auto& in) { return softmax(in[0], -3); }, {x}},
      {"log_softmax of dimension 0", [](const auto& in) { return log_softmax(in[0], 0); }, {x}},
      {"softmax of rank 0",
       [](const auto& in) { return softmax(in[0]) * in[0]; },
       {random_array({}, 1)}},
      {"layer_norm of two dimensions",
       [](const auto& in) {
         return layer_norm(in[0], {2, 4}, in[1], in[2], 1e-3);
       },
       {x, random_array({2, 4}, 2), random_array({2, 4}, 3)}},
      {"layer_norm with a bias alone",
       [](const auto& in) { return layer_norm(in[0], {4}, {}, in[1]); },
       {x, random_array({4}, 2)}},
      {"layer_norm of a transposed input",
       [](const auto& in) { return layer_norm(transpose(in[0], 0, 2), {3}, in[1]); },
       {x, random_array({3}, 2)}},
      {"rms_norm",
       [](const auto& in) { return rms_norm(in[0], {4}, in[1], 1e-3); },
       {x, random_array({4}, 2)}},
      {"rms_norm of two dimensions",
       [](const auto& in) {
         return rms_norm(in[0], {2, 4}, in[1]);
       },
       {x, random_array({2, 4}, 2)}},
      {"rms_norm without a weight", [](const auto& in) { return rms_norm(in[0], {4}); }, {x}},
  };
  for (const DifferentiableCase& c : cases) expect_differentiable(c);
}

TEST(Normalization, GradientsOfChannelNorms) {
  const Array x = random_array({3, 4, 2, 3}, 1), w = random_array({4}, 2), b = random_array({4}, 3);
  const Array mean = random_array({4}, 4), variance = random_array({4}, 5, 0.5, 2);
  const std::vector<DifferentiableCase> cases = {
      {"batch_norm",
       [](const auto& in) { return batch_norm(in[0], {}, {}, in[1], in[2], kTraining); },
       {x, w, b}},
      {"batch_norm of rank 2",
       [](const auto& in) { return batch_norm(in[0], {}, {}, in[1], in[2], kTraining); },
       {random_array({5, 4}, 1), w, b}},
      {"batch_norm without weight and bias",
       [](const auto& in) { return batch_norm(in[0], {}, {}, {}, {}, kTraining); },
       {random_array({3, 4, 5}, 1)}},
      {"batch_norm of permuted channels",
       [](const auto& in) {
         return batch_norm(permute(in[0], {0, 3, 1, 2}), {}, {}, in[1], in[2], kTraining);
       },
       {random_array({2, 3, 2, 4}, 1), w, b}},
      {"batch_norm in evaluation",
       [=](const auto& in) { return batch_norm(in[0], mean, variance, in[1], in[2]); },
       {x, w, b}},
      {"group_norm",
       [](const auto& in) { return group_norm(in[0], 2, in[1], in[2], 1e-3); },
       {x, w, b}},
      {"group_norm of rank 2",
       [](const auto& in) { return group_norm(in[0], 2); },
       {random_array({3, 4}, 1)}},
      {"instance_norm",
       [](const auto& in) { return instance_norm(in[0], in[1], in[2]); },
       {x, w, b}},
  };
  for (const DifferentiableCase& c : cases) expect_differentiable(c);
}

TEST(Normalization, EveryDtype) {
  const Array x = random_array({4, 6, 3, 3}, 1), w = random_array({6}, 2), b = random_array({6}, 3);
  const std::vector<Function> functions = {
      [](const Tensors& in) { return batch_norm(in[0], {}, {}, in[1], in[2], kTraining); },
      [](const Tensors& in) {
        const auto zero = Array::zeros({6}, DType::f32), one = Array::full({6}, 1, DType::f32);
        return batch_norm(in[0], zero, one, in[1], in[2]);
      },
      [](const Tensors& in) { return group_norm(in[0], 3, in[1], in[2]); },
      [](const Tensors& in) { return instance_norm(in[0], in[1], in[2]); },
      [](const Tensors& in) { return layer_norm(transpose(in[0], 1, 3), {6}, in[1], in[2]); },
      [](const Tensors& in) { return rms_norm(transpose(in[0], 1, 3), {6}, in[1], 1e-3) + in[2]; },
      [](const Tensors& in) {
        return softmax(in[0] + reshape(in[1] * in[2], {6, 1, 1}), 1);
      },
  };
  for (const Function& f : functions) {
    SCOPED_TRACE(&f - functions.data());
    expect_all_dtypes(f, {x, w, b});
  }
}

// Weights may be wider than what they multiply, as in mixed precision.
TEST(Normalization, WeightsOfAnotherDtype) {
  const Tensor x = Tensor::variable(kernels::cast(random_array({3, 4, 4}, 1), DType::bf16));
  const Tensor w = Tensor::variable(kernels::cast(random_array({4}, 2), DType::f32));
  for (const Tensor& y : {layer_norm(x, {4}, w, w), rms_norm(x, {4}, w), group_norm(x, 2, w, w),
                          batch_norm(x, {}, {}, w, w, kTraining)}) {
    EXPECT_EQ(y.dtype(), DType::bf16);
    const Tensor total = sum(y);
    for (const bool recorded : {true, false}) {
      const std::vector<Tensor> in{x, w};
      const auto gradients = grad({&total, 1}, in, {}, {.create_graph = recorded});
      EXPECT_EQ(gradients[0].dtype(), DType::bf16);
      EXPECT_EQ(gradients[1].dtype(), DType::f32);
    }
  }
}

TEST(Normalization, ChannelsLastStaysSo) {
  const Array x = random_array({2, 5, 4, 4}, 1), dy = random_array({2, 5, 4, 4}, 2);
  const Tensor dense = Tensor::variable(x), last = Tensor::variable(channels_last(x));
  const Tensor a = batch_norm(dense, {}, {}, {}, {}, kTraining);
  const Tensor b = batch_norm(last, {}, {}, {}, {}, kTraining);
  EXPECT_EQ(b.value().strides(), last.value().strides());
  expect_all_near(b, a, 1e-12);
  const Tensor seed{dy}, last_seed{channels_last(dy)};
  const Tensor da = grad({&a, 1}, {&dense, 1}, {&seed, 1})[0];
  const Tensor db = grad({&b, 1}, {&last, 1}, {&last_seed, 1}, {.retain_graph = true})[0];
  EXPECT_EQ(db.value().strides(), last.value().strides());
  expect_all_near(db, da, 1e-12);
  expect_all_near(grad({&b, 1}, {&last, 1}, {&seed, 1})[0], da, 1e-12);  // mixed layouts
}

TEST(Normalization, BatchNormUpdatesRunningStatistics) {
  const Array x = Array::from<double>({1, 10, 2, 20, 6, 60}, {3, 2});
  const Array mean = Array::full({2}, 1, DType::f64), variance = Array::full({2}, 2, DType::f64);
  batch_norm(Tensor(x), mean, variance, {}, {}, {.training = true, .momentum = 0.25});
  expect_all_near(mean, Array::from<double>({0.75 + 0.75, 0.75 + 7.5}, {2}), 1e-14);
  expect_all_near(variance, Array::from<double>({1.5 + 7.0 / 4, 1.5 + 700.0 / 4}, {2}), 1e-14);
  batch_norm(Tensor(x), mean, {}, {}, {}, kTraining);  // either may be absent
  batch_norm(Tensor(x), {}, variance, {}, {}, kTraining);
  const Array before = kernels::copy(mean);
  batch_norm(Tensor(x), mean, variance);
  batch_norm(Tensor(Array::zeros({0, 2}, DType::f64)), mean, variance, {}, {}, kTraining);
  expect_all_near(mean, before, 0);
}

// The gradient is that of the statistics the output was made with.
TEST(Normalization, EvaluationBeforeATrainingStep) {
  const Tensor x = Tensor::variable(random_array({3, 2}, 1));
  const Array mean = Array::zeros({2}, DType::f64), variance = Array::full({2}, 4, DType::f64);
  const Tensor y = batch_norm(x, mean, variance, {}, {}, {.epsilon = 0});
  batch_norm(x, mean, variance, {}, {}, kTraining);
  sum(y).backward();
  expect_all_near(x.grad(), Array::full({3, 2}, 0.5, DType::f64), 1e-14);
}

TEST(Normalization, RmsNormTakesTheEpsilonOfTheDtype) {
  for (const auto& [dtype, epsilon] :
       {std::pair(DType::f64, 0x1p-52), {DType::f32, 0x1p-23}, {DType::bf16, 0x1p-7}}) {
    const double value = 0x1p-10;
    const Tensor y = rms_norm(Tensor(Array::full({1, 4}, value, dtype)), {4});
    EXPECT_NEAR(y.to_vector<double>()[0], value / std::sqrt(value * value + epsilon), 1e-4);
  }
}

TEST(Normalization, NothingInNothingOut) {
  const auto none = [](Shape shape) { return Tensor::variable(Array::zeros(shape, DType::f32)); };
  const std::vector<Tensor> empties = {none({0, 4, 3}), none({2, 4, 0})};
  for (const Tensor& x : empties) {
    const Tensor w = Tensor::variable(Array::full({4}, 1, DType::f32));
    const Tensor row = Tensor::variable(Array::full({x.dim(2)}, 1, DType::f32));
    const std::vector<Tensor> results = {
        softmax(x),
        log_softmax(x, 1),
        layer_norm(x, {x.dim(2)}, row, row),
        rms_norm(x, {x.dim(2)}, row),
        batch_norm(x, {}, {}, w, w, kTraining),
        batch_norm(x, w.value(), w.value(), w, w),
        group_norm(x, 2, w, w),
        dropout(x, 0.5),
    };
    for (const Tensor& y : results) {
      EXPECT_EQ(y.shape(), x.shape());
      sum(y).backward();
      EXPECT_EQ(x.grad().shape(), x.shape());
    }
    for (double value : w.grad().to_vector<double>()) EXPECT_EQ(value, 0);
  }
}

TEST(Normalization, Dropout) {
  const Tensor x = Tensor::variable(random_array({100, 10}, 1, 1, 2));
  EXPECT_EQ(dropout(x, 0).value().data(), x.value().data());
  EXPECT_EQ(dropout(x, 0.5, false).value().data(), x.value().data());
  const Tensor zeros = dropout(x, 1);
  sum(zeros).backward();
  for (const Tensor& tensor : {zeros, x.grad()}) {
    for (double value : tensor.to_vector<double>()) EXPECT_EQ(value, 0);
  }
  const auto kept = dropout(x, 0.25).to_vector<double>();
  const auto count = std::count_if(kept.begin(), kept.end(), [](double v) { return v != 0; });
  EXPECT_NEAR(static_cast<double>(count), 750, 60);
  const Tensor one(Array::full({}, 3, DType::f64));
  EXPECT_EQ(dropout(one, 1).item(), 0);
  EXPECT_EQ(dropout(one, 1).rank(), 0);
}

TEST(Normalization, Errors) {
  const Tensor x(random_array({2, 4, 3}, 1)), w(random_array({4}, 2)), row(random_array({3}, 2));
  const Tensor ids(Array::zeros({2, 4, 3}, DType::i64)), none, scalar(random_array({}, 1));
  for (const Tensor& wrong : {ids, none}) {
    expect_error("softmax", [&] { softmax(wrong); });
    expect_error("log_softmax", [&] { log_softmax(wrong); });
    expect_error("layer_norm", [&] { layer_norm(wrong, {3}); });
    expect_error("rms_norm", [&] { rms_norm(wrong, {3}); });
    expect_error("batch_norm", [&] { batch_norm(wrong, {}, {}, {}, {}, kTraining); });
    expect_error("group_norm", [&] { group_norm(wrong, 2); });
    expect_error("instance_norm", [&] { instance_norm(wrong); });
    expect_error("dropout", [&] { dropout(wrong, 0.5); });
  }
  expect_error("softmax", [&] { softmax(x, 3); });
  expect_error("layer_norm", [&] { layer_norm(x, {4}); });
  expect_error("layer_norm", [&] { layer_norm(x, {}); });
  expect_error("layer_norm", [&] { layer_norm(scalar, {1}); });
  expect_error("layer_norm", [&] { layer_norm(x, {3}, w); });
  expect_error("layer_norm", [&] { layer_norm(x, {4, 3}, row); });
  expect_error("rms_norm", [&] { rms_norm(x, {3}, w); });
  expect_error("batch_norm", [&] { batch_norm(scalar, {}, {}, {}, {}, kTraining); });
  expect_error("batch_norm", [&] { batch_norm(x, {}, {}); });
  expect_error("batch_norm", [&] { batch_norm(x, {}, {}, row, {}, kTraining); });
  expect_error("batch_norm", [&] { batch_norm(x, row.value(), w.value()); });
  expect_error("batch_norm", [&] {
    batch_norm(Tensor(random_array({1, 4}, 1)), {}, {}, {}, {}, kTraining);
  });
  expect_error("group_norm", [&] { group_norm(x, 3); });
  expect_error("group_norm", [&] { group_norm(x, 0); });
  expect_error("group_norm", [&] { group_norm(x, 2, row); });
  expect_error("instance_norm", [&] { instance_norm(Tensor(random_array({2, 4, 1}, 1))); });
  expect_error("dropout", [&] { dropout(x, -0.1); });
  expect_error("dropout", [&] { dropout(x, 1.1); });
  expect_error("dropout", [&] { dropout(x, std::nan("")); });
}

}  // namespace
}  // namespace lockstep::testing
