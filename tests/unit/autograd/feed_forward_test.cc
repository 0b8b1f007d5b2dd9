// Linear layers of one op: feed_forward against its parts, and what layers ask of autocast.

#include <gtest/gtest.h>

#include "differentiable_case.h"
#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/checkpoint.h"
#include "lockstep/autograd/ops.h"
#include "lockstep/runtime/trace_log.h"
#include "support/gradient_check.h"

namespace lockstep::testing {
namespace {

using Tensors = std::vector<Tensor>;

constexpr int64_t kIn = 8, kHidden = 16, kOut = 5;

// x, weight1, bias1, weight2, bias2.
std::vector<Array> operands(Shape x = {2, 3, kIn}) {
  return {random_array(x, 1, -2, 2), random_array({kHidden, kIn}, 2), random_array({kHidden}, 3),
          random_array({kOut, kHidden}, 4), random_array({kOut}, 5)};
}

Tensor composition(const Tensors& in, GeluForm form) {
  return linear(gelu(linear(in[0], in[1], in[2]), form), in[3], in[4]);
}

Tensor fused(const Tensors& in, FeedForwardOptions options) {
  return feed_forward(in[0], in[1], in[2], in[3], in[4], options);
}

TEST(FeedForward, HasItsDerivatives) {
  for (const GeluForm form : {GeluForm::erf, GeluForm::tanh}) {
    for (const bool recompute : {false, true}) {
      const FeedForwardOptions options{.form = form, .recompute_gelu = recompute};
      expect_differentiable(
          {"feed_forward", [&](const auto& in) { return fused(in, options); }, operands()});
      expect_differentiable(
          {"without biases",
           [&](const auto& in) { return feed_forward(in[0], in[1], {}, in[2], {}, options); },
           {operands()[0], operands()[1], operands()[3]}});
      expect_all_dtypes([&](const auto& in) { return fused(in, options); }, operands());
    }
  }
}

// Whatever is frozen: the same gradients as those of the parts, in memory that is offered or not.
TEST(FeedForward, AnyPartMayBeFrozen) {
  for (const bool recompute : {false, true}) {
    for (unsigned trained = 1; trained < 32; ++trained) {
      SCOPED_TRACE(trained);
      std::vector<std::vector<double>> gradients[2];
      for (const bool one_op : {false, true}) {
        Tensors in;
        for (const Array& array : operands()) {
          in.push_back((trained >> in.size() & 1) != 0 ? Tensor::variable(kernels::copy(array))
                                                       : Tensor(array));
        }
        for (int pass = 0; pass < 2; ++pass) {  // the second adds
          const Tensor y =
              one_op ? fused(in, {.recompute_gelu = recompute}) : composition(in, GeluForm::erf);
          sum(square(y)).backward();
        }
        for (const Tensor& tensor : in) {
          if (tensor.requires_grad()) {
            gradients[one_op].push_back(tensor.grad().to_vector<double>());
          }
        }
      }
      for (size_t i = 0; i < gradients[0].size(); ++i) {
        for (size_t j = 0; j < gradients[0][i].size(); ++j) {
          EXPECT_NEAR(gradients[1][i][j], gradients[0][i][j], 1e-11);
        }
      }
    }
  }
}

TEST(FeedForward, SameTensorTwiceRetainedGraphsAndNothing) {
  const Tensor w = Tensor::variable(random_array({kIn, kIn}, 1));
  const Tensor x(random_array({3, kIn}, 2));
  const Tensor y = feed_forward(x, w, {}, w, {});
  sum(y).backward({.retain_graph = true});
  const auto once = w.grad().to_vector<double>();
  sum(y).backward();
  for (size_t i = 0; i < once.size(); ++i) {
    EXPECT_NEAR(w.grad().to_vector<double>()[i], 2 * once[i], 1e-12);
  }
  for (const Shape& shape : {Shape{0, kIn}, Shape{2, 0, kIn}, Shape{kIn}}) {
    expect_gradients([](const auto& in) { return square(fused(in, {})); }, operands(shape));
  }
}

TEST(FeedForward, Errors) {
  const std::vector<Array> in = operands();
  const Tensor x(in[0]), w1(in[1]), b1(in[2]), w2(in[3]), b2(in[4]);
  expect_error("feed_forward: ", [&] { feed_forward(x, w2, b1, w1, b2); });
  expect_error("feed_forward: ", [&] { feed_forward(x, w1, b2, w2, b2); });
  expect_error("feed_forward: ", [&] { feed_forward(x, w1, b1, w2, b1); });
  // The second layer reads what the first one gives.
  const Tensor narrow_w2(Array::zeros({w2.dim(0), w2.dim(1) - 1}, w2.dtype()));
  Shape hidden = x.shape();
  hidden[x.rank() - 1] = w1.dim(0);
  expect_error(concat({"feed_forward: input of shape ", hidden, " and weight"}),
               [&] { feed_forward(x, w1, b1, narrow_w2, b2); });
  expect_error("feed_forward: ", [&] { feed_forward(x, w1, b1, to(w2, DType::f32), b2); });
  expect_error("feed_forward: ", [&] { feed_forward({}, w1, b1, w2, b2); });
}

TEST(FeedForward, OneOpInTraces) {
  TraceLog log;
  Tensors in;
  for (const Array& array : operands()) in.push_back(array);
  fused(in, {});
  ASSERT_EQ(log.entries().size(), 1u);
  EXPECT_EQ(log.entries()[0].name, "feed_forward");
  EXPECT_EQ(log.entries()[0].flops, 2 * 6 * kHidden * (kIn + kOut));
}

// Under autocast: parameters and their gradients in f32.
struct Trained {
  Tensors in;
  explicit Trained(const std::vector<Array>& arrays) {
    for (const Array& array : arrays) {
      in.push_back(Tensor::variable(kernels::copy(kernels::cast(array, DType::f32))));
    }
  }
};

TEST(FeedForward, UnderAutocastFollowsItsParts) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    for (const bool again : {false, true}) {
      const Trained parts(operands()), whole(operands());
      const auto run = [&](const Tensors& in, bool one_op) {
        Tensor y;
        {
          const Autocast autocast(dtype);
          const auto f = [&](const Tensor& x) {
            Tensors all = in;
            all[0] = x;
            return one_op ? fused(all, {.form = GeluForm::tanh}) : composition(all, GeluForm::tanh);
          };
          y = again ? checkpoint(f, in[0]) : f(in[0]);
        }
        EXPECT_EQ(y.dtype(), dtype);
        sum(square(to(y, DType::f32))).backward();
      };
      run(parts.in, false);
      run(whole.in, true);
      for (size_t i = 0; i < parts.in.size(); ++i) {
        EXPECT_EQ(whole.in[i].grad().dtype(), DType::f32);
        expect_all_near(whole.in[i].grad(), parts.in[i].grad(), 3 * rounding_of(dtype));
      }
    }
  }
}

TEST(FeedForward, SecondGradientUnderAutocast) {
  const Trained parts(operands()), whole(operands());
  const auto second = [&](const Tensors& in, bool one_op) {
    Tensor loss;
    {
      const Autocast autocast(DType::bf16);
      loss = sum(square(one_op ? fused(in, {}) : composition(in, GeluForm::erf)));
    }
    const Tensor first = grad(loss, in[1], {.create_graph = true});
    EXPECT_EQ(first.dtype(), DType::f32);
    return grad(sum(square(first)), in[3]);
  };
  const Tensor a = second(parts.in, false), b = second(whole.in, true);
  const double size = max(abs(a)).item();
  for (size_t i = 0; i < a.to_vector<double>().size(); ++i) {
    EXPECT_NEAR(a.to_vector<double>()[i], b.to_vector<double>()[i], 0.1 * size);
  }
}

// A product of 16-bit operands is summed in f32; nothing rounds it on its way to the gradient.
TEST(Linear, GradientsUnderAutocastAreNotRounded) {
  const int64_t rows = 64;
  const Tensor x = Tensor::variable(kernels::cast(random_array({rows, 3}, 1), DType::f32));
  const Tensor w = Tensor::variable(kernels::cast(random_array({4, 3}, 2), DType::f32));
  const Tensor b = Tensor::variable(kernels::cast(random_array({4}, 3), DType::f32));
  const Tensor dy(kernels::cast(random_array({rows, 4}, 4), DType::bf16));
  Tensor y;
  {
    const Autocast autocast(DType::bf16);
    y = linear(x, w, b);
  }
  y.backward(dy);
  const auto exact = [](const Tensor& t) { return to(to(t, DType::bf16), DType::f64); };
  const NoGrad no_grad;
  expect_all_near(w.grad(), matmul(exact(dy).mT(), exact(x)), 1e-6);
  expect_all_near(b.grad(), sum(exact(dy), {0}), 1e-6);
  expect_all_near(x.grad(), matmul(exact(dy), exact(w)), 1e-6);
  for (const Tensor& gradient : {w.grad(), b.grad(), x.grad()}) {
    EXPECT_EQ(gradient.dtype(), DType::f32);
  }
}

// Memory that a leaf was given takes the product itself; a second pass adds to it there.
TEST(Linear, GradientsUnderAutocastGoWhereTheyBelong) {
  const Tensor x(kernels::cast(random_array({6, 3}, 1), DType::f32));
  const Tensor w = Tensor::variable(kernels::cast(random_array({4, 3}, 2), DType::f32));
  const Tensor b = Tensor::variable(kernels::cast(random_array({4}, 3), DType::f32));
  const Array flat = Array::full({16}, std::nan(""), DType::f32);
  static_cast<Leaf&>(*w.node()).seat_gradient(flat.narrow(0, 0, 12).reshape({4, 3}));
  static_cast<Leaf&>(*b.node()).seat_gradient(flat.narrow(0, 12, 4));
  std::vector<float> first;
  for (int pass = 1; pass <= 2; ++pass) {
    Tensor y;
    {
      const Autocast autocast(DType::bf16);
      y = linear(x, w, b);
    }
    sum(to(y, DType::f32)).backward();
    const auto found = flat.to_vector<float>();
    if (pass == 1) first = found;
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_NEAR(found[i], static_cast<float>(pass) * first[i], 1e-5);
    }
  }
}

}  // namespace
}  // namespace lockstep::testing
