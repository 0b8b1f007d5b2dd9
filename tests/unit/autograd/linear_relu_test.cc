// A linear layer with relu in it, against relu of a linear layer.

#include <gtest/gtest.h>

#include "differentiable_case.h"
#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/ops.h"
#include "lockstep/runtime/trace_log.h"
#include "support/gradient_check.h"

namespace lockstep::testing {
namespace {

using Tensors = std::vector<Tensor>;

std::vector<Array> operands(Shape x = {2, 3, 8}) {
  return {random_array(x, 1, -2, 2), random_array({5, 8}, 2), random_array({5}, 3)};
}

Tensor in_one(const Tensors& in) { return linear(in[0], in[1], in[2], Activation::relu); }

TEST(LinearRelu, HasItsDerivatives) {
  expect_differentiable({"with a bias", in_one, operands()});
  expect_differentiable({"without one",
                         [](const auto& in) { return linear(in[0], in[1], {}, Activation::relu); },
                         {operands()[0], operands()[1]}});
  expect_differentiable({"one output",
                         [](const auto& in) { return linear(in[0], in[1], {}, Activation::relu); },
                         {operands()[0], random_array({8}, 4)}});
  expect_all_dtypes(in_one, operands());
  for (const Shape& shape : {Shape{0, 8}, Shape{2, 0, 8}, Shape{8}}) {
    expect_gradients([](const auto& in) { return square(in_one(in)); }, operands(shape));
  }
}

// Whatever is frozen, and whether the result is held: then its memory is nobody else's.
TEST(LinearRelu, FollowsItsParts) {
  for (unsigned trained = 1; trained < 8; ++trained) {
    for (const bool held : {false, true}) {
      SCOPED_TRACE(::testing::Message() << trained << (held ? ", held" : ""));
      std::vector<std::vector<double>> found[2];
      for (const bool one_op : {false, true}) {
        Tensors in;
        for (const Array& array : operands()) {
          in.push_back((trained >> in.size() & 1) != 0 ? Tensor::variable(kernels::copy(array))
                                                       : Tensor(array));
        }
        for (int pass = 0; pass < 2; ++pass) {  // the second adds
          Tensor y = one_op ? in_one(in) : relu(linear(in[0], in[1], in[2]));
          const Tensor kept = held ? y : Tensor();
          const Tensor loss = sum(square(y) * 0.5);
          found[one_op].push_back(y.to_vector<double>());
          y = Tensor();
          loss.backward();
          if (kept) {
            EXPECT_EQ(kept.to_vector<double>(), found[one_op].back());
          }
        }
        for (const Tensor& tensor : in) {
          if (tensor.requires_grad()) found[one_op].push_back(tensor.grad().to_vector<double>());
        }
      }
      ASSERT_EQ(found[0].size(), found[1].size());
      for (size_t i = 0; i < found[0].size(); ++i) {
        for (size_t j = 0; j < found[0][i].size(); ++j) {
          EXPECT_NEAR(found[1][i][j], found[0][i][j], 1e-12);
        }
      }
    }
  }
}

TEST(LinearRelu, RetainedGraphsAndLayersInARow) {
  const Tensor w = Tensor::variable(random_array({8, 8}, 1)), x(random_array({3, 8}, 2));
  const auto twice = [&](Activation activation) {
    return sum(linear(linear(x, w, {}, activation), w, {}, activation));
  };
  const Tensor y = twice(Activation::relu);
  y.backward({.retain_graph = true});
  const auto once = w.grad().to_vector<double>();
  y.backward();
  const auto both = w.grad().to_vector<double>();
  w.zero_grad();
  sum(relu(linear(relu(linear(x, w)), w))).backward();
  const auto expected = w.grad().to_vector<double>();
  for (size_t i = 0; i < once.size(); ++i) {
    EXPECT_NEAR(once[i], expected[i], 1e-12);
    EXPECT_NEAR(both[i], 2 * expected[i], 1e-12);
  }
}

// Under autocast parameters and their gradients are of f32, the result is of 16 bits.
TEST(LinearRelu, UnderAutocastFollowsItsParts) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    std::vector<std::vector<double>> found[2];
    for (const bool one_op : {false, true}) {
      Tensors in;
      for (const Array& array : operands()) {
        in.push_back(Tensor::variable(kernels::copy(kernels::cast(array, DType::f32))));
      }
      Tensor y;
      {
        const Autocast autocast(dtype);
        y = one_op ? in_one(in) : relu(linear(in[0], in[1], in[2]));
      }
      EXPECT_EQ(y.dtype(), dtype);
      sum(y).backward();
      for (const Tensor& tensor : in) {
        EXPECT_EQ(tensor.grad().dtype(), DType::f32);
        found[one_op].push_back(tensor.grad().to_vector<double>());
      }
    }
    EXPECT_EQ(found[0], found[1]);
  }
}

TEST(LinearRelu, IntegersTracesAndErrors) {
  const Tensor x(Array::from<int64_t>({1, -2, 3, 4}, {2, 2})),
      w(Array::from<int64_t>({1, 1}, {1, 2}));
  EXPECT_EQ(linear(x, w, {}, Activation::relu).to_vector<int64_t>(), (std::vector<int64_t>{0, 7}));
  TraceLog log;
  const std::vector<Array> in = operands();
  linear(in[0], in[1], in[2], Activation::relu);
  ASSERT_EQ(log.entries().size(), 1u);
  EXPECT_EQ(log.entries()[0].name, "linear");
  expect_error("linear: ", [&] { linear(in[0], in[0], in[2], Activation::relu); });
}

}  // namespace
}  // namespace lockstep::testing
