// Batch norm with the ReLU and the sum that follow it in one op.
#include <cmath>

#include "differentiable_case.h"
#include "lockstep/autograd/ops/normalization.h"
#include "lockstep/runtime/ops/rows.h"

namespace lockstep::testing {
namespace {

using Tensors = std::vector<Tensor>;

// x, residual, weight, bias.
const std::vector<Array>& inputs() {
  static const std::vector<Array> all{random_array({3, 4, 2, 3}, 1), random_array({3, 4, 2, 3}, 2),
                                      random_array({4}, 3), random_array({4}, 4)};
  return all;
}

struct Variant {
  std::string name;
  bool training = true, relu = true, with_residual = true, affine = true, channels_last = false;

  BatchNormOptions options() const { return {.training = training, .epsilon = 1e-3}; }
  Tensor norm(const Tensors& in, const BatchNormOptions& options) const {
    const Array mean = random_array({4}, 5), variance = random_array({4}, 6, 0.5, 2);
    const auto state = [&](const Array& array) {
      return training ? Array() : kernels::cast(array, kernels::statistics_dtype(in[0].dtype()));
    };
    const Tensor weight = affine ? in[2] : Tensor(), bias = affine ? in[3] : Tensor();
    return batch_norm(laid(in[0]), state(mean), state(variance), weight, bias, options);
  }
  Tensor fused(const Tensors& in) const {
    BatchNormOptions fused = options();
    if (relu) fused.activation = Activation::relu;
    if (with_residual) fused.residual = laid(in[1]);
    return unused(norm(in, fused), in);
  }
  Tensor of_ops(const Tensors& in) const {
    Tensor y = norm(in, options());
    if (with_residual) y = y + in[1];
    return unused(relu ? lockstep::relu(y) : y, in);
  }

 private:
  Tensor laid(const Tensor& x) const {
    if (!channels_last) return x;
    return permute(contiguous(permute(x, {0, 2, 3, 1})), {0, 3, 1, 2});
  }
  // So that every input has a gradient.
  Tensor unused(const Tensor& y, const Tensors& in) const {
    return y + (sum(in[1]) + sum(in[2]) + sum(in[3])) * 0.0;
  }
};

const std::vector<Variant> kVariants = {
    {"relu", true, true, false},
    {"sum", true, false, true},
    {"relu of a sum", true, true, true},
    {"without weight and bias", true, true, true, false},
    {"relu without weight and bias", true, true, false, false},
    {"channels last", true, true, true, true, true},
    {"relu, channels last", true, true, false, true, true},
    {"relu in evaluation", false, true, false},
    {"relu of a sum in evaluation", false, true, true},
    {"evaluation without weight and bias", false, true, false, false},
};

TEST(BatchNormRelu, Gradients) {
  for (const Variant& variant : kVariants) {
    expect_differentiable(
        {variant.name, [&](const auto& in) { return variant.fused(in); }, inputs()});
  }
}

TEST(BatchNormRelu, IsWhatTheOpsCompute) {
  for (const Variant& variant : kVariants) {
    SCOPED_TRACE(variant.name);
    const auto results = [&](const Function& f) {
      const Tensors in = variables(inputs());
      Tensors out{f(in)};
      const Tensor seed(random_array(out[0].shape(), 9));
      for (const Tensor& gradient : grad({out.data(), 1}, in, {&seed, 1})) out.push_back(gradient);
      return out;
    };
    const Tensors fused = results([&](const auto& in) { return variant.fused(in); });
    const Tensors expected = results([&](const auto& in) { return variant.of_ops(in); });
    for (size_t i = 0; i < fused.size(); ++i) expect_all_near(fused[i], expected[i], 1e-13);
  }
}

TEST(BatchNormRelu, EveryDtype) {
  for (const Variant& variant : kVariants) {
    SCOPED_TRACE(variant.name);
    expect_all_dtypes([&](const auto& in) { return variant.fused(in); }, inputs());
  }
}

// A block that ends in batch norm over its own input, and a residual of which nobody wants the
// gradient.
TEST(BatchNormRelu, SharedAndConstantResiduals) {
  const Array x = random_array({3, 4, 5}, 1), r = random_array({3, 4, 5}, 2);
  const auto fused = [](const Tensor& x, const Tensor& residual) {
    return batch_norm(x, {}, {}, {}, {},
                      {.training = true, .activation = Activation::relu, .residual = residual});
  };
  expect_differentiable(
      {"its own input", [&](const auto& in) { return fused(in[0], in[0]); }, {x}});
  expect_differentiable({"a constant", [&](const auto& in) { return fused(in[0], r); }, {x}});
  const Tensor residual = Tensor::variable(r);
  const Tensor y = fused(x, residual);
  sum(y).backward();
  expect_all_near(residual.grad(), to(Tensor(y.value()) > 0.0, DType::f64), 0);
}

// A residual that does not fit is added by ops of their own, as it would be without the option.
TEST(BatchNormRelu, ResidualsOfOtherDtypesAndShapes) {
  const Array x = kernels::cast(random_array({3, 4, 5}, 1), DType::bf16);
  const BatchNormOptions plain{.training = true};
  for (const Array& residual :
       {kernels::cast(random_array({3, 4, 5}, 2), DType::f32),
        kernels::cast(random_array({4, 1}, 2), DType::bf16), random_array({2, 1, 4, 5}, 2)}) {
    for (Activation activation : {Activation::none, Activation::relu}) {
      BatchNormOptions options = plain;
      options.activation = activation;
      options.residual = residual;
      const Tensor found = batch_norm(Tensor(x), {}, {}, {}, {}, options);
      const Tensor total = batch_norm(Tensor(x), {}, {}, {}, {}, plain) + Tensor(residual);
      const Tensor expected = activation == Activation::relu ? relu(total) : total;
      EXPECT_EQ(found.dtype(), expected.dtype());
      expect_all_near(found, expected, 0);
    }
  }
  BatchNormOptions wrong = plain;
  wrong.residual = Tensor(kernels::cast(random_array({3, 3, 5}, 2), DType::bf16));
  const Array mean = Array::zeros({4}, DType::f32), variance = Array::full({4}, 1, DType::f32);
  EXPECT_THROW(batch_norm(Tensor(x), mean, variance, {}, {}, wrong), Error);
  EXPECT_EQ(mean.to_vector<double>(), std::vector<double>(4, 0));  // nothing has happened
}

TEST(BatchNormRelu, KeepsLayouts) {
  const Tensor x = permute(Tensor(random_array({2, 3, 3, 4}, 1)), {0, 3, 1, 2});
  const Tensor dense(random_array({2, 4, 3, 3}, 2));
  for (const Tensor& residual : {Tensor(), dense, x}) {
    const Tensor in = Tensor::variable(x.value());
    const Tensor y =
        batch_norm(in, {}, {}, {}, {},
                   {.training = true, .activation = Activation::relu, .residual = residual});
    EXPECT_EQ(y.value().strides(), x.value().strides());
    sum(y * y).backward();
    const Tensor plain = Tensor::variable(x.value());
    Tensor total = batch_norm(plain, {}, {}, {}, {}, {.training = true});
    if (residual) total = total + residual;
    sum(square(relu(total))).backward();
    expect_all_near(in.grad(), plain.grad(), 1e-12);
  }
}

// As of the ops: relu(NaN) is NaN, and its gradient goes on.
TEST(BatchNormRelu, NaN) {
  std::vector<double> values = random_array({3, 4}, 1).to_vector<double>();
  values[5] = std::nan("");
  const Array mean = random_array({4}, 2), variance = random_array({4}, 3, 1, 2);
  const Tensor fused = Tensor::variable(Array::from(values, {3, 4}));
  const Tensor plain = Tensor::variable(Array::from(values, {3, 4}));
  for (const bool with_residual : {false, true}) {
    const Tensor residual = with_residual ? Tensor(random_array({3, 4}, 4)) : Tensor();
    const Tensor y = batch_norm(fused, mean, variance, {}, {},
                                {.activation = Activation::relu, .residual = residual});
    Tensor total = batch_norm(plain, mean, variance);
    if (with_residual) total = total + residual;
    const Tensor expected = relu(total);
    EXPECT_TRUE(std::isnan(y.to_vector<double>()[5]));
    sum(y).backward();
    sum(expected).backward();
    EXPECT_GT(plain.grad().to_vector<double>()[5], 0);
    expect_all_near(fused.grad(), plain.grad(), 1e-14);
    fused.zero_grad();
    plain.zero_grad();
  }
}

TEST(BatchNormRelu, GradientsAddUpAndFollowTheParametersDtype) {
  const Tensor x(kernels::cast(inputs()[0], DType::bf16));
  for (DType dtype : {DType::bf16, DType::f32}) {
    const Tensor w = Tensor::variable(kernels::cast(inputs()[2], dtype));
    const Tensor b = Tensor::variable(kernels::cast(inputs()[3], dtype));
    const auto pass = [&] {
      sum(batch_norm(x, {}, {}, w, b, {.training = true, .activation = Activation::relu}))
          .backward();
    };
    pass();
    const Tensor dw(kernels::copy(w.grad().value())), db(kernels::copy(b.grad().value()));
    EXPECT_EQ(dw.dtype(), dtype);
    EXPECT_EQ(db.dtype(), dtype);
    pass();
    expect_all_near(w.grad(), dw + dw, 1e-2);
    expect_all_near(b.grad(), db + db, 1e-2);
  }
}

TEST(BatchNormRelu, MovesRunningStatisticsOfAnyLayout) {
  const Array all = random_array({4, 2}, 1), mean = all.narrow(1, 1, 1).reshape({4});
  const Tensor x(inputs()[0]);
  const Array before = kernels::copy(all), dense = kernels::copy(mean);
  for (const Array& running : {mean, dense}) {
    batch_norm(x, running, {}, {}, {}, {.training = true, .activation = Activation::relu});
  }
  EXPECT_NE(mean.strides(), dense.strides());
  expect_all_near(Tensor(mean), Tensor(dense), 0);
  expect_all_near(Tensor(all.narrow(1, 0, 1)), Tensor(before.narrow(1, 0, 1)), 0);
  expect_all_near(
      Tensor(dense),
      Tensor(before.narrow(1, 1, 1).reshape({4})) * 0.9 + lockstep::mean(x, {0, 2, 3}) * 0.1,
      1e-14);
}

// Beside a residual backward reads the result.
TEST(BatchNormRelu, AChangedResultIsAnError) {
  const Tensor x = Tensor::variable(inputs()[0]);
  const Tensor y = batch_norm(
      x, {}, {}, {}, {},
      {.training = true, .activation = Activation::relu, .residual = Tensor(inputs()[1])});
  const Tensor total = sum(y);
  kernels::fill(y.value(), 1);
  EXPECT_THROW(total.backward(), Error);
}

TEST(BatchNormRelu, NothingInNothingOut) {
  for (const Shape& shape : {Shape{0, 4, 3}, Shape{2, 4, 0}}) {
    const Tensor x = Tensor::variable(Array::zeros(shape, DType::f32));
    const Tensor w = Tensor::variable(Array::full({4}, 1, DType::f32));
    for (const Tensor& residual : {Tensor(), x}) {
      const Tensor y =
          batch_norm(x, {}, {}, w, w,
                     {.training = true, .activation = Activation::relu, .residual = residual});
      EXPECT_EQ(y.shape(), shape);
      sum(y).backward();
      EXPECT_EQ(x.grad().shape(), shape);
    }
    for (double value : w.grad().to_vector<double>()) EXPECT_EQ(value, 0);
  }
}

}  // namespace
}  // namespace lockstep::testing
