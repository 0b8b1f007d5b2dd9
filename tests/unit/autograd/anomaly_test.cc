#include "lockstep/autograd/anomaly.h"

#include <gtest/gtest.h>

#include <limits>

#include "lockstep/autograd/checkpoint.h"
#include "lockstep/autograd/ops.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/trace_log.h"

namespace lockstep {
namespace {

std::string message_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

Tensor vector_of(std::vector<double> values) {
  const Shape shape{static_cast<int64_t>(values.size())};
  return Tensor::variable(Array::from(values, shape));
}

TEST(DetectAnomaly, NamesTheForwardOpItsModuleAndItsInputs) {
  const DetectAnomaly detect;
  const std::string message = message_of([] {
    const ScopeFrame scope("h.0");
    const ScopeFrame inner("mlp");
    log(vector_of({1, -1, 2}) * 3.0);
  });
  EXPECT_EQ(message,
            "anomaly: log in h.0 / mlp made NaN in 1 of 3 elements of [3] f64; inputs: [3] f64 "
            "finite");
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::string second = message_of([&] { vector_of({1, 2}) + vector_of({nan, 3}); });
  EXPECT_NE(second.find("add made NaN"), std::string::npos) << second;
  EXPECT_NE(second.find("[2] f64 finite, [2] f64 holds NaN"), std::string::npos) << second;
}

TEST(DetectAnomaly, NamesTheForwardOpOfAGradient) {
  const DetectAnomaly detect;
  const Tensor x = vector_of({0, 1, 4});
  Tensor y;
  {
    const ScopeFrame scope("encoder");
    y = sqrt(x);
  }
  // d sqrt(0) is infinite; times 0 it is NaN.
  const Tensor loss = sum(y * Array::from<double>({0, 1, 1}, {3}));
  const std::string message = message_of([&] { loss.backward(); });
  EXPECT_EQ(message,
            "backward of sqrt: anomaly: the gradient of input 0 of sqrt (in encoder; inputs [3] "
            "f64) holds NaN in 1 of 3 elements of [3] f64");
}

TEST(DetectAnomaly, InfinityCountsWhenAsked) {
  const auto run = [] { exp(vector_of({1, 1000})); };
  {
    const DetectAnomaly detect;
    EXPECT_EQ(message_of(run), "");
  }
  const DetectAnomaly detect({.infinity = true});
  EXPECT_NE(message_of(run).find("exp made NaN or infinity in 1 of 2"), std::string::npos);
  // Squares overflow where the values themselves do not.
  EXPECT_EQ(message_of([] { vector_of({1e300, 1}) * 1.0; }), "");
}

TEST(DetectAnomaly, SeesARecomputedFunction) {
  const Tensor x = vector_of({1, 4});
  const Tensor y =
      checkpoint([](const Tensor& in) { return log(in - (context().recomputing ? 2.0 : 0.0)); }, x);
  const DetectAnomaly detect;
  const std::string message = message_of([&] { sum(y).backward(); });
  EXPECT_NE(message.find("anomaly: log made NaN in 1 of 2"), std::string::npos) << message;
}

TEST(DetectAnomaly, OtherTracersKeepSeeingAndNothingStaysBehind) {
  TraceLog log;
  {
    const DetectAnomaly detect;
    vector_of({1, 2}) * 2.0;
  }
  ASSERT_EQ(log.entries().size(), 1u);
  EXPECT_EQ(context().anomaly, nullptr);
  EXPECT_EQ(message_of([] { lockstep::log(vector_of({-1})); }), "");
}

TEST(TraceLog, CountsConvolutionAndAttention) {
  TraceLog log;
  const NoGrad no_grad;
  const Tensor image{Array::zeros({2, 6, 5, 5}, DType::f32)};
  const Tensor kernel{Array::zeros({8, 3, 3, 3}, DType::f32)};
  conv2d(image, kernel, {}, {.groups = 2});  // [2, 8, 3, 3], 27 products for each
  EXPECT_EQ(log.flops(), 2 * (2 * 8 * 9) * 27);
  const Tensor q{Array::zeros({2, 3, 4, 8}, DType::f32)}, k{Array::zeros({2, 3, 5, 8}, DType::f32)};
  scaled_dot_product_attention(q, k, k);  // two products of [4, 8] by [8, 5] for each head
  EXPECT_EQ(log.flops(), 2 * (2 * 8 * 9) * 27 + 2 * (2 * 2 * 3 * 4 * 5 * 8));
}

// One op each, however it is made inside.
TEST(TraceLog, EveryFamilyIsSeenUnderNoGrad) {
  const Tensor x{Array::full({4, 4}, 0.5, DType::f32)};
  const Tensor image = reshape(x, {1, 1, 4, 4});
  const Tensor ids{Array::from<int64_t>({0, 1, 2, 3}, {4})};
  struct Case {
    const char* name;
    std::function<void()> run;
  };
  const std::vector<Case> cases = {
      {"tanh", [&] { tanh(x); }},
      {"mul", [&] { x* x; }},
      {"gt", [&] { x > x; }},
      {"where",
       [&] {
         where(Tensor(Array::full({4, 4}, 1, DType::boolean)), x, x);
       }},
      {"to", [&] { to(x, DType::f64); }},
      {"sum", [&] { sum(x); }},
      {"argmax", [&] { argmax(x, 0); }},
      {"logsumexp", [&] { logsumexp(x); }},
      {"var", [&] { var(x); }},
      {"permute",
       [&] {
         permute(x, {1, 0});
       }},
      {"index_select", [&] { index_select(x, 0, ids); }},
      {"embedding", [&] { embedding(ids, x); }},
      {"matmul", [&] { matmul(x, x); }},
      {"conv2d", [&] { conv2d(image, image); }},
      {"max_pool2d", [&] { max_pool2d(image, {.kernel_size = {2}}); }},
      {"softmax", [&] { softmax(x); }},
      {"layer_norm", [&] { layer_norm(x, {4}); }},
      {"batch_norm", [&] { batch_norm(x, {}, {}, {}, {}, {.training = true}); }},
      {"group_norm", [&] { group_norm(x, 2); }},
      {"cross_entropy", [&] { cross_entropy(x, ids); }},
      {"attention", [&] { scaled_dot_product_attention(image, image, image); }},
      {"dropout", [&] { dropout(x, 0.5); }},
  };
  const NoGrad no_grad;
  for (const Case& c : cases) {
    TraceLog log;
    c.run();
    std::string seen;
    bool found = false;
    for (const TraceEntry& entry : log.entries()) {
      seen += entry.name + " ";
      found = found || entry.name == c.name;
    }
    EXPECT_TRUE(found) << c.name << ": saw " << seen;
  }
}

TEST(TraceLog, KeepsScopesShapesAndCountsProducts) {
  TraceLog log;
  const Tensor x{Array::zeros({4, 5}, DType::f32)}, w{Array::zeros({3, 5}, DType::f32)};
  {
    const NoGrad no_grad;
    const ScopeFrame scope("head");
    tanh(linear(x, w));
  }
  matmul(x, w.t());
  const auto& entries = log.entries();
  ASSERT_GE(entries.size(), 3u);
  EXPECT_EQ(entries[0].name, "linear");
  EXPECT_EQ(entries[0].scope, "head");
  EXPECT_EQ(entries[0].inputs[1], (Shape{3, 5}));
  EXPECT_EQ(entries[0].output, (Shape{4, 3}));
  EXPECT_EQ(entries[0].flops, 2 * 4 * 3 * 5);
  EXPECT_EQ(entries[1].name, "tanh");
  EXPECT_EQ(entries[1].flops, 0);
  EXPECT_EQ(log.flops(), 2 * 2 * 4 * 3 * 5);
  EXPECT_NE(log.to_string().find("linear: 1 calls, 120 flops"), std::string::npos);
}

}  // namespace
}  // namespace lockstep
