// Indexing, sorting, masks and embeddings: gradients of every order, edge cases, errors.

#include "lockstep/autograd/ops/index.h"

#include <gtest/gtest.h>

#include <limits>
#include <type_traits>

#include "lockstep/autograd/ops/shape.h"
#include "support/gradient_check.h"

namespace lockstep::testing {
namespace {

using Doubles = std::vector<double>;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
const double kNan = std::nan("");

template <class T = int64_t>
Tensor whole(std::initializer_list<std::type_identity_t<T>> values, Shape shape = {-1}) {
  if (shape == Shape{-1}) shape = {static_cast<int64_t>(values.size())};
  return Array::from<T>(values, shape);
}
Tensor real(std::initializer_list<double> values) {
  return Array::from(values, {static_cast<int64_t>(values.size())});
}
Tensor mask(std::initializer_list<uint8_t> values, Shape shape = {-1}) {
  return to(whole<uint8_t>(values, shape), DType::boolean);
}

TEST(IndexOps, GradientsOfEveryOrder) {
  const Array x = random_array({3, 4}, 1), y = random_array({2, 3}, 2);
  const Tensor index = whole({2, 0, 0, 1, 2, 2}, {2, 3});
  const std::vector<std::pair<std::string, Function>> cases = {
      {"index_select",
       [](const auto& in) {
         return square(index_select(in[0], 1, whole({3, 0, 3})));
       }},
      {"index_select i32",
       [](const auto& in) {
         return square(index_select(in[0], 0, whole<int32_t>({1, 1})));
       }},
      {"gather", [&](const auto& in) { return square(gather(in[0], 0, index)); }},
      {"gather twice",
       [&](const auto& in) { return gather(in[0], 1, index) * gather(in[0], 0, index); }},
      {"scatter_add", [&](const auto& in) { return square(scatter_add(in[0], 0, index, in[1])); }},
      {"scatter_add part",
       [&](const auto& in) {
         return square(scatter_add(in[0], 1, narrow(index, 1, 0, 2), in[1]));
       }},
      {"masked_fill",
       [](const auto& in) {
         return square(masked_fill(in[0], mask({1, 0, 0, 1}), 2));
       }},
      {"masked_select",
       [](const auto& in) {
         return square(masked_select(in[0], mask({1, 0, 1}, {3, 1})));
       }},
      {"embedding", [&](const auto& in) { return square(embedding(index, in[0])); }},
      {"embedding padded",
       [&](const auto& in) {
         return sum(square(embedding(index, in[0], -3))) - sum(square(in[0]) * 2);
       }},
      {"topk", [](const auto& in) { return square(topk(in[0], 2, 0).values); }},
      {"topk smallest", [](const auto& in) { return square(topk(in[0], 3, -1, false).values); }},
      {"sort", [](const auto& in) { return square(sort(in[0], 0, true).values); }},
  };
  for (const auto& [name, f] : cases) {
    SCOPED_TRACE(name);
    if (name != "embedding padded") expect_gradients(f, {x, y});
    if (name != "embedding padded") expect_second_gradients(f, {x, y});
    expect_recorded_equals_fused(f, {x, y});
  }
}

TEST(IndexOps, PaddingTakesNoGradient) {
  const Tensor weight = Tensor::variable(random_array({3, 2}, 1));
  for (int64_t padding : {1, -2}) {
    const Tensor y = embedding(whole({0, 1, 2, 1, 0}), weight, padding);
    EXPECT_EQ(y.to_vector<double>()[2], weight.to_vector<double>()[2]);
    EXPECT_EQ(grad(sum(y), weight).to_vector<double>(), (Doubles{2, 2, 0, 0, 1, 1}));
  }
}

TEST(IndexOps, GradientsAddUpInLeaves) {
  const Tensor x = Tensor::variable(Array::from({1.0, 2.0, 3.0}, {3}));
  for (int i = 0; i < 2; ++i) sum(index_select(x, 0, whole({2, 2, 0}))).backward();
  EXPECT_EQ(x.grad().to_vector<double>(), (Doubles{2, 0, 4}));
}

TEST(IndexOps, Values) {
  const Tensor x = real({3, kNan, -1, 3, kInfinity});
  const ValuesIndices sorted = sort(x);
  EXPECT_EQ(sorted.indices.to_vector<double>(), (Doubles{2, 0, 3, 4, 1}));
  EXPECT_EQ(argsort(x, 0, true, true).to_vector<double>(), (Doubles{1, 4, 0, 3, 2}));
  EXPECT_EQ(topk(x, 2).indices.to_vector<double>(), (Doubles{1, 4}));
  EXPECT_EQ(topk(x, 2, 0, false).values.to_vector<double>(), (Doubles{-1, 3}));
  EXPECT_EQ(topk(x, 0).values.shape(), (Shape{0}));
  EXPECT_EQ(masked_select(real({1, 2}), mask({1, 0, 1, 1}, {2, 2})).to_vector<double>(),
            (Doubles{1, 1, 2}));
  EXPECT_EQ(masked_select(real({1, 2}), mask({0})).shape(), (Shape{0}));
  EXPECT_EQ(masked_fill(real({1}), mask({1, 0}), -kInfinity).to_vector<double>(),
            (Doubles{-kInfinity, 1}));
  EXPECT_EQ(masked_fill(whole({7, 8}), mask({1, 0}), 2).dtype(), DType::i64);
  EXPECT_EQ(one_hot(whole({2, 0})).to_vector<double>(), (Doubles{0, 0, 1, 1, 0, 0}));
  EXPECT_EQ(one_hot(whole({1}), 4, DType::f32).dtype(), DType::f32);
  EXPECT_EQ(one_hot(whole<int64_t>({}), 3).shape(), (Shape{0, 3}));
  EXPECT_EQ(scatter_add(mask({0, 0}), 0, whole({1, 1}), mask({1, 1})).to_vector<double>(),
            (Doubles{0, 1}));
}

TEST(IndexOps, RankZeroAndNothing) {
  const Tensor x = Array::full({}, 3, DType::f64), place = Array::zeros({}, DType::i64);
  const Tensor nothing = Array::empty({0, 4}, DType::f64);
  EXPECT_EQ(index_select(x, 0, place).shape(), Shape{});
  EXPECT_EQ(gather(x, -1, place).item(), 3);
  EXPECT_EQ(gather(x, 0, whole({0, 0})).shape(), (Shape{2}));
  EXPECT_EQ(scatter_add(x, 0, place, x).item(), 6);
  EXPECT_EQ(sort(x).values.shape(), Shape{});
  EXPECT_EQ(topk(x, 1, 0).indices.item(), 0);
  EXPECT_EQ(masked_select(x, mask({1}, {})).shape(), (Shape{1}));
  EXPECT_EQ(sort(nothing, 0).values.shape(), (Shape{0, 4}));
  EXPECT_EQ(topk(nothing, 2, 1).values.shape(), (Shape{0, 2}));
  EXPECT_EQ(index_select(nothing, 1, whole({3})).shape(), (Shape{0, 1}));
  EXPECT_EQ(index_select(nothing, 0, whole<int64_t>({})).shape(), (Shape{0, 4}));
  EXPECT_EQ(gather(nothing, 1, Array::empty({0, 9}, DType::i64)).shape(), (Shape{0, 9}));
  EXPECT_EQ(embedding(whole<int64_t>({}), Array::zeros({3, 2}, DType::f64)).shape(), (Shape{0, 2}));
}

TEST(IndexOps, EveryDtypeAndLayout) {
  const Tensor index = whole({1, 0, 1, 1}, {2, 2}).mT();
  for (DType dtype : {DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32, DType::u8}) {
    const Tensor base = to(whole({3, 1, 2, 0, 5, 4, 7, 6, 8}, {3, 3}), dtype);
    for (const Tensor& x : {base.mT(), expand(narrow(base, 0, 1, 1), {3, 3})}) {
      const Tensor dense = kernels::copy(x.value());
      const auto both = [&](const auto& f) {
        EXPECT_EQ(f(x).dtype(), dtype);
        EXPECT_EQ(f(x).template to_vector<double>(), f(dense).template to_vector<double>());
      };
      both([&](const Tensor& t) { return gather(t, 0, index); });
      both([&](const Tensor& t) { return index_select(t, 1, whole({2, 2})); });
      both([&](const Tensor& t) { return scatter_add(t, 0, index, t); });
      both([&](const Tensor& t) { return sort(t, 0).values; });
      both([&](const Tensor& t) { return topk(t, 2, 1).values; });
      both([&](const Tensor& t) { return masked_select(t, mask({1, 0, 1})); });
      both([&](const Tensor& t) { return embedding(index, t); });
    }
  }
}

TEST(IndexOps, Errors) {
  const Tensor x = random_array({2, 3}, 1), none, place = whole({0});
  EXPECT_THROW(index_select(x, 0, whole({2})), Error);
  EXPECT_THROW(index_select(x, 0, whole({-1})), Error);
  EXPECT_THROW(index_select(x, 2, place), Error);
  EXPECT_THROW(index_select(x, 0, real({0})), Error);
  EXPECT_THROW(index_select(x, 0, whole({0}, {1, 1})), Error);
  EXPECT_THROW(gather(x, 0, place), Error);
  EXPECT_THROW(gather(x, 0, whole({2}, {1, 1})), Error);
  EXPECT_THROW(gather(x, 0, whole({0, 0, 0, 0}, {1, 4})), Error);
  EXPECT_THROW(scatter_add(x, 0, whole({5}, {1, 1}), x), Error);
  EXPECT_THROW(scatter_add(x, 0, whole({0, 0, 0, 0}, {1, 4}), random_array({1, 4}, 1)), Error);
  EXPECT_THROW(scatter_add(x, 0, whole({0, 0, 0}, {3, 1}), x), Error);
  EXPECT_THROW(scatter_add(x, 0, whole({0}, {1, 1}), whole({1}, {1, 1})), Error);
  EXPECT_THROW(masked_fill(x, x, 1), Error);
  EXPECT_THROW(masked_fill(x, mask({1, 0}), 1), Error);
  EXPECT_THROW(masked_select(x, whole({1, 0, 1})), Error);
  EXPECT_THROW(embedding(whole({2}), x), Error);
  EXPECT_THROW(embedding(place, real({1})), Error);
  EXPECT_THROW(embedding(place, x, 2), Error);
  EXPECT_THROW(embedding(x, place), Error);
  EXPECT_THROW(one_hot(whole({3}), 3), Error);
  EXPECT_THROW(one_hot(whole({-1})), Error);
  EXPECT_THROW(one_hot(whole<int64_t>({})), Error);
  EXPECT_THROW(one_hot(real({1})), Error);
  EXPECT_THROW(topk(x, 4), Error);
  EXPECT_THROW(topk(x, -1), Error);
  EXPECT_THROW(sort(x, 2), Error);
  const std::vector<std::function<void()>> empty = {[&] { index_select(none, 0, place); },
                                                    [&] { index_select(x, 0, none); },
                                                    [&] { gather(none, 0, place); },
                                                    [&] { gather(x, 0, none); },
                                                    [&] { scatter_add(none, 0, place, x); },
                                                    [&] { scatter_add(x, 0, none, x); },
                                                    [&] { scatter_add(x, 0, place, none); },
                                                    [&] { masked_fill(none, mask({1}), 0); },
                                                    [&] { masked_fill(x, none, 0); },
                                                    [&] { masked_select(none, mask({1})); },
                                                    [&] { masked_select(x, none); },
                                                    [&] { embedding(none, x); },
                                                    [&] { embedding(place, none); },
                                                    [&] { one_hot(none); },
                                                    [&] { topk(none, 1); },
                                                    [&] { sort(none); },
                                                    [&] { argsort(none); }};
  for (size_t i = 0; i < empty.size(); ++i) EXPECT_THROW(empty[i](), Error) << i;
}

}  // namespace
}  // namespace lockstep::testing
