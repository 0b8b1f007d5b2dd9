#include <gmock/gmock.h>

#include "differentiable_case.h"
#include "lockstep/autograd/anomaly.h"
#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/checkpoint.h"
#include "lockstep/autograd/ops/normalization.h"
#include "lockstep/runtime/trace_log.h"

namespace lockstep::testing {
namespace {

using Tensors = std::vector<Tensor>;
using ::testing::HasSubstr;

AddLayerNorm composition(const Tensor& x, const Tensor& delta, const Shape& shape,
                         const Tensor& weight, const Tensor& bias) {
  const Tensor sum = delta ? x + delta : x;
  return {sum, layer_norm(sum, shape, weight, bias)};
}

// x, delta, weight, bias.
Tensors inputs_of(const Shape& shape, const Shape& normalized, DType x, DType delta, DType weight) {
  return {Tensor(kernels::cast(random_array(shape, 1), x)),
          Tensor(kernels::cast(random_array(shape, 2), delta)),
          Tensor(kernels::cast(random_array(normalized, 3), weight)),
          Tensor(kernels::cast(random_array(normalized, 4), weight))};
}

struct Results {
  std::vector<std::vector<double>> values;
  std::vector<DType> dtypes;
  bool operator==(const Results&) const = default;
};

enum Uses { kSum = 1, kNormalized = 2, kBoth = 3 };

// Values and gradients of an x that is itself a result, where `uses` of the outputs are used.
template <class Op>
Results run(const Tensors& in, Uses uses, const Op& op) {
  Tensors leaves;
  for (const Tensor& tensor : in) {
    leaves.push_back(tensor ? Tensor::variable(kernels::copy(tensor.value())) : Tensor());
  }
  const Tensor x = -leaves[0], delta = leaves[1] ? -leaves[1] : Tensor();
  const AddLayerNorm out = op(x, delta, leaves[2], leaves[3]);
  Tensors roots, seeds;
  for (const auto& [root, use] : {std::pair(out.sum, kSum), {out.normalized, kNormalized}}) {
    if ((uses & use) == 0) continue;
    roots.push_back(root * 0.5);
    seeds.push_back(Tensor(kernels::cast(random_array(root.shape(), 5), root.dtype())));
  }
  Results results;
  const auto keep = [&](const Tensor& tensor) {
    results.values.push_back(tensor ? tensor.to_vector<double>() : std::vector<double>());
    results.dtypes.push_back(tensor ? tensor.dtype() : DType::boolean);
  };
  keep(out.sum);
  keep(out.normalized);
  backward(roots, seeds);
  for (const Tensor& leaf : leaves) keep(leaf ? leaf.grad() : Tensor());
  return results;
}

TEST(AddLayerNorm, IsTheSumAndItsNormToTheBit) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    for (int64_t width : {1, 7, 384, 1030}) {
      for (Uses uses : {kSum, kNormalized, kBoth}) {
        SCOPED_TRACE(::testing::Message() << name_of(dtype) << " " << width << " uses " << uses);
        const Tensors in = inputs_of({3, 5, width}, {width}, dtype, dtype, dtype);
        const auto fused = [&](auto x, auto delta, auto w, auto b) {
          return add_layer_norm(x, delta, {width}, w, b);
        };
        const auto plain = [&](auto x, auto delta, auto w, auto b) {
          return composition(x, delta, {width}, w, b);
        };
        const Results a = run(in, uses, fused), b = run(in, uses, plain);
        EXPECT_EQ(a.dtypes, b.dtypes);
        // 16-bit gradients are rounded once here, twice there.
        const double tolerance = dtype == DType::bf16 ? 0.02 : dtype == DType::f16 ? 2e-3 : 0;
        for (size_t i = 0; i < a.values.size(); ++i) {
          ASSERT_EQ(a.values[i].size(), b.values[i].size());
          for (size_t j = 0; j < a.values[i].size(); ++j) {
            ASSERT_NEAR(a.values[i][j], b.values[i][j],
                        (i < 2 ? 0 : tolerance) * std::max(1.0, std::abs(b.values[i][j])))
                << i << ", " << j;
          }
        }
      }
    }
  }
}

TEST(AddLayerNorm, WithoutADeltaIsLayerNorm) {
  const Tensors in = inputs_of({4, 6}, {6}, DType::f32, DType::f32, DType::f32);
  const AddLayerNorm out = add_layer_norm(in[0], {}, {6}, in[2], in[3]);
  EXPECT_EQ(out.sum.value().data(), in[0].value().data());
  EXPECT_EQ(out.normalized.to_vector<float>(),
            layer_norm(in[0], {6}, in[2], in[3]).to_vector<float>());
  const Autocast autocast(DType::f16);
  EXPECT_EQ(add_layer_norm(in[0], {}, {6}).normalized.dtype(), DType::f16);
}

TEST(AddLayerNorm, Gradients) {
  const Array x = random_array({3, 2, 4}, 1), delta = random_array({3, 2, 4}, 2);
  const Array weight = random_array({4}, 3), bias = random_array({4}, 4);
  const auto both = [](const AddLayerNorm& out) { return out.sum * out.normalized; };
  const std::vector<DifferentiableCase> cases = {
      {"both outputs",
       [&](const auto& in) { return both(add_layer_norm(in[0], in[1], {4}, in[2], in[3])); },
       {x, delta, weight, bias}},
      {"the sum alone",
       [&](const auto& in) { return add_layer_norm(in[0], in[1], {4}, in[2]).sum; },
       {x, delta, weight}},
      {"the norm alone",
       [&](const auto& in) { return add_layer_norm(in[0], in[1], {4}, {}, in[2]).normalized; },
       {x, delta, bias}},
      {"no delta",
       [&](const auto& in) { return both(add_layer_norm(in[0], {}, {4}, in[1])); },
       {x, weight}},
      {"two dimensions",
       [&](const auto& in) {
         return both(add_layer_norm(in[0], in[1], {2, 4}, in[2]));
       },
       {x, delta, random_array({2, 4}, 5)}},
      {"x is delta", [&](const auto& in) { return both(add_layer_norm(in[0], in[0], {4})); }, {x}},
      {"transposed",
       [&](const auto& in) {
         return both(add_layer_norm(transpose(in[0], 0, 2), transpose(in[1], 0, 2), {3}));
       },
       {x, delta}},
      {"the sum is used twice",
       [&](const auto& in) {
         const AddLayerNorm first = add_layer_norm(in[0], in[1], {4}, in[2], in[3]);
         const AddLayerNorm second = add_layer_norm(first.sum, tanh(first.normalized), {4}, in[2]);
         return second.normalized * first.sum + second.sum;
       },
       {x, delta, weight, bias}},
  };
  for (const DifferentiableCase& c : cases) expect_differentiable(c);
}

TEST(AddLayerNorm, InputsThatAreConstants) {
  for (const auto& [x, delta] : {std::pair(DType::f64, DType::f64), {DType::f32, DType::bf16}}) {
    for (int variable = 0; variable < 4; ++variable) {
      std::vector<double> gradients[2];
      for (bool fused : {false, true}) {
        Tensors in = inputs_of({4, 6}, {6}, x, delta, x);
        in[variable] = Tensor::variable(kernels::copy(in[variable].value()));
        const AddLayerNorm out = fused ? add_layer_norm(in[0], in[1], {6}, in[2], in[3])
                                       : composition(in[0], in[1], {6}, in[2], in[3]);
        sum(square(out.normalized) * out.sum).backward();
        gradients[fused] = in[variable].grad().to_vector<double>();
      }
      EXPECT_EQ(gradients[0], gradients[1]) << name_of(x) << " input " << variable;
    }
  }
  const Tensors in = inputs_of({4, 6}, {6}, DType::f64, DType::f64, DType::f64);
  EXPECT_FALSE(add_layer_norm(in[0], in[1], {6}).sum.requires_grad());
}

// What autocast makes of the plain ops: the sum promoted, the norm in f32, cast for the product.
TEST(AddLayerNorm, AutocastIsThePlainOpsAndACastToTheBit) {
  for (DType low : {DType::bf16, DType::f16}) {
    for (DType delta_dtype : {low, DType::f32}) {
      for (int64_t width : {5, 384, 1030}) {
        for (Uses uses : {kSum, kNormalized, kBoth}) {
          SCOPED_TRACE(::testing::Message() << name_of(low) << " " << width << " uses " << uses);
          const Tensors in = inputs_of({130, width}, {width}, DType::f32, delta_dtype, DType::f32);
          const auto fused = [&](auto x, auto delta, auto w, auto b) {
            const Autocast autocast(low);
            return add_layer_norm(x, delta, {width}, w, b);
          };
          const auto plain = [&](auto x, auto delta, auto w, auto b) {
            const Autocast autocast(low);
            AddLayerNorm out = composition(x, delta, {width}, w, b);
            out.normalized = to(out.normalized, low);
            return out;
          };
          EXPECT_EQ(run(in, uses, fused), run(in, uses, plain));
        }
      }
    }
  }
}

TEST(AddLayerNorm, DtypesUnderAutocast) {
  const auto dtypes = [](DType x, DType delta, DType weight, bool for_products) {
    const Tensors in = inputs_of({2, 6}, {6}, x, delta, weight);
    const AddLayerNorm out =
        add_layer_norm(in[0], in[1], {6}, in[2], in[3], {.for_products = for_products});
    return std::pair(out.sum.dtype(), out.normalized.dtype());
  };
  using Pair = std::pair<DType, DType>;
  constexpr DType f64 = DType::f64, f32 = DType::f32, bf16 = DType::bf16, f16 = DType::f16;
  EXPECT_EQ(dtypes(f32, bf16, f32, true), Pair(f32, f32));
  EXPECT_EQ(dtypes(bf16, f32, f32, true), Pair(f32, f32));
  EXPECT_EQ(dtypes(f64, f32, f32, true), Pair(f64, f64));
  const Autocast autocast(bf16);
  EXPECT_EQ(dtypes(f32, bf16, f32, true), Pair(f32, bf16));
  EXPECT_EQ(dtypes(f32, bf16, bf16, true), Pair(f32, bf16));
  EXPECT_EQ(dtypes(bf16, f32, f32, true), Pair(f32, bf16));
  EXPECT_EQ(dtypes(bf16, f16, f32, true), Pair(f32, bf16));
  EXPECT_EQ(dtypes(bf16, bf16, f32, true), Pair(bf16, bf16));
  EXPECT_EQ(dtypes(f16, f16, f32, true), Pair(f16, bf16));
  EXPECT_EQ(dtypes(f64, bf16, f64, true), Pair(f64, f64));
  EXPECT_EQ(dtypes(f32, bf16, f32, false), Pair(f32, f32));
  EXPECT_EQ(dtypes(bf16, bf16, f32, false), Pair(bf16, f32));
}

TEST(AddLayerNorm, MixedDtypesOutsideAutocast) {
  for (const auto& [x, delta] : {std::pair(DType::f32, DType::bf16),
                                 {DType::bf16, DType::f32},
                                 {DType::f32, DType::f16},
                                 {DType::f64, DType::f32},
                                 {DType::bf16, DType::f16}}) {
    const Tensors in = inputs_of({9, 12}, {12}, x, delta, DType::f32);
    const auto fused = [&](auto a, auto b, auto w, auto c) {
      return add_layer_norm(a, b, {12}, w, c);
    };
    const auto plain = [&](auto a, auto b, auto w, auto c) {
      return composition(a, b, {12}, w, c);
    };
    EXPECT_EQ(run(in, kBoth, fused), run(in, kBoth, plain)) << name_of(x) << " " << name_of(delta);
  }
}

// A block's last sum goes to the next one's norm; blocks run again in the backward pass.
TEST(AddLayerNorm, RecomputedAndRecordedTwice) {
  const Tensors in = inputs_of({4, 6}, {6}, DType::f32, DType::bf16, DType::f32);
  std::vector<std::vector<double>> expected;
  for (bool again : {false, true}) {
    Tensors leaves;
    for (const Tensor& tensor : in)
      leaves.push_back(Tensor::variable(kernels::copy(tensor.value())));
    const auto block = [&](const Tensor& x, const Tensor& delta) {
      const AddLayerNorm out = add_layer_norm(x, delta, {6}, leaves[2], leaves[3]);
      return Tensors{out.sum, matmul(out.normalized, ones({6, 6}))};
    };
    Tensors out{leaves[0], leaves[1]};
    {
      const Autocast autocast(DType::bf16);
      for (int i = 0; i < 3; ++i) {
        out = again ? checkpoint(block, out[0], out[1]) : block(out[0], out[1]);
      }
    }
    sum(out[0] * to(out[1], DType::f32)).backward();
    std::vector<std::vector<double>> gradients;
    for (const Tensor& leaf : leaves) gradients.push_back(leaf.grad().to_vector<double>());
    if (again) {
      EXPECT_EQ(gradients, expected);
    }
    expected = gradients;
  }
}

TEST(AddLayerNorm, SecondGradientUnderAutocast) {
  const Tensor x = Tensor::variable(kernels::cast(random_array({2, 4}, 1), DType::f32));
  const Tensor delta = Tensor::variable(kernels::cast(random_array({2, 4}, 2), DType::bf16));
  std::vector<float> second[2];
  for (bool fused : {false, true}) {
    Tensor loss;
    {
      const Autocast autocast(DType::bf16);
      AddLayerNorm out = fused ? add_layer_norm(x, delta, {4}) : composition(x, delta, {4}, {}, {});
      loss = sum(out.sum * square(to(out.normalized, DType::bf16)));
    }
    const Tensor first = grad(loss, x, {.create_graph = true});
    EXPECT_EQ(first.dtype(), DType::f32);
    second[fused] = grad(sum(square(first)), delta).to_vector<float>();
  }
  for (size_t i = 0; i < second[0].size(); ++i) EXPECT_NEAR(second[0][i], second[1][i], 0.05);
}

// The upstream gradient of the sum is written over only where nobody else sees it.
TEST(AddLayerNorm, GradientsThatOthersHoldStayAsTheyAre) {
  const Tensors in = inputs_of({4, 6}, {6}, DType::f32, DType::f32, DType::f32);
  const Tensor x = Tensor::variable(in[0].value());
  const AddLayerNorm out = add_layer_norm(x * 1.0, in[1], {6}, in[2]);
  out.sum.retain_grad();
  const Tensor seed(kernels::cast(random_array({4, 6}, 7), DType::f32));
  const auto before = seed.to_vector<float>();
  const Tensor roots[] = {out.sum, out.normalized}, seeds[] = {seed, seed};
  backward(roots, seeds);
  EXPECT_EQ(seed.to_vector<float>(), before);
  EXPECT_EQ(out.sum.grad().to_vector<float>(), before);
  EXPECT_NE(x.grad().to_vector<float>(), before);
}

TEST(AddLayerNorm, OneOpInTracesAndAnomalies) {
  const Tensors in = inputs_of({4, 6}, {6}, DType::f32, DType::f32, DType::f32);
  TraceLog log;
  add_layer_norm(in[0], in[1], {6}, in[2], in[3]);
  EXPECT_THAT(log.to_string(), HasSubstr("add_layer_norm"));
  const DetectAnomaly detect;
  const Tensor wrong(Array::full({4, 6}, NAN, DType::f32));
  expect_error("anomaly: add_layer_norm", [&] { add_layer_norm(in[0], wrong, {6}); });
  const Tensor x = Tensor::variable(in[0].value());
  const AddLayerNorm out = add_layer_norm(x, in[1], {6});
  expect_error("backward of add_layer_norm: anomaly", [&] { out.normalized.backward(wrong); });
}

TEST(AddLayerNorm, ASumThatWasChangedIsFound) {
  const Tensors in = inputs_of({4, 6}, {6}, DType::f32, DType::f32, DType::f32);
  const AddLayerNorm out = add_layer_norm(Tensor::variable(in[0].value()), in[1], {6});
  kernels::fill(out.sum.value(), 1);
  expect_error("backward of add_layer_norm", [&] { sum(out.normalized).backward(); });
}

TEST(AddLayerNorm, EmptyTensorsAndErrors) {
  const Tensors none = inputs_of({0, 6}, {6}, DType::f32, DType::bf16, DType::f32);
  EXPECT_EQ(add_layer_norm(none[0], none[1], {6}, none[2]).normalized.shape(), (Shape{0, 6}));
  const Tensors in = inputs_of({4, 6}, {6}, DType::f32, DType::f32, DType::f32);
  const Tensor ids(Array::zeros({4, 6}, DType::i64));
  expect_error("add_layer_norm", [&] { add_layer_norm({}, in[1], {6}); });
  expect_error("add_layer_norm", [&] { add_layer_norm(ids, in[1], {6}); });
  expect_error("add_layer_norm", [&] { add_layer_norm(in[0], ids, {6}); });
  expect_error("add_layer_norm", [&] { add_layer_norm(in[0], in[2], {6}); });
  expect_error("add_layer_norm", [&] { add_layer_norm(in[0], in[1], {4}); });
  expect_error("add_layer_norm", [&] { add_layer_norm(in[0], in[1], {6}, in[0]); });
}

}  // namespace
}  // namespace lockstep::testing
