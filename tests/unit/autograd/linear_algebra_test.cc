// Products at every rank and einsum: values against plain sums, gradients, dtypes, errors.

#include "lockstep/autograd/ops/linear_algebra.h"

#include <gtest/gtest.h>

#include <map>

#include "lockstep/autograd/ops/einsum.h"
#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/autograd/ops/shape.h"
#include "support/gradient_check.h"

namespace lockstep::testing {
namespace {

void expect_equal(const Tensor& actual, const Tensor& expected) {
  ASSERT_EQ(actual.shape(), expected.shape());
  const auto a = actual.to_vector<double>(), b = expected.to_vector<double>();
  for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-12) << i;
}

// matmul as a broadcast product that is summed.
Tensor plain(const Tensor& a, const Tensor& b) {
  if (a.rank() == 1) return squeeze(plain(unsqueeze(a, 0), b), b.rank() == 1 ? 0 : -2);
  if (b.rank() == 1) return squeeze(plain(a, unsqueeze(b, 1)), -1);
  return sum(unsqueeze(a, -1) * unsqueeze(b, -3), {-2});
}

TEST(LinearAlgebra, MatmulAtEveryRank) {
  const std::vector<std::pair<Shape, Shape>> shapes = {{{4}, {4}},
                                                       {{4}, {4, 3}},
                                                       {{2, 4}, {4}},
                                                       {{2, 4}, {4, 3}},
                                                       {{4}, {5, 4, 3}},
                                                       {{5, 2, 4}, {4}},
                                                       {{5, 2, 4}, {4, 3}},
                                                       {{2, 4}, {5, 4, 3}},
                                                       {{5, 2, 4}, {5, 4, 3}},
                                                       {{6, 1, 2, 4}, {5, 4, 3}},
                                                       {{1, 2, 4}, {5, 4, 3}},
                                                       {{0, 4}, {4, 3}},
                                                       {{2, 0}, {0, 3}},
                                                       {{0}, {0}},
                                                       {{5, 2, 4}, {4, 0}},
                                                       {{0, 2, 4}, {4, 3}},
                                                       {{0, 2, 4}, {1, 4, 3}}};
  for (const auto& [a, b] : shapes) {
    SCOPED_TRACE(a.to_string() + " @ " + b.to_string());
    const Array left = random_array(a, 1), right = random_array(b, 2);
    expect_equal(matmul(left, right), plain(left, right));
    const Function f = [](const auto& in) { return square(matmul(in[0], in[1])); };
    expect_gradients(f, {left, right});
    expect_second_gradients(f, {left, right});
    expect_recorded_equals_fused(f, {left, right});
  }
}

TEST(LinearAlgebra, NamedProducts) {
  const Array a = random_array({2, 3}, 1), b = random_array({3, 4}, 2), v = random_array({3}, 3);
  const Array batch = random_array({5, 2, 3}, 4), other = random_array({5, 3, 4}, 5);
  const Array input = random_array({4}, 6), nan = Array::full({4}, std::nan(""), DType::f64);
  expect_equal(mm(a, b), plain(a, b));
  expect_equal(mv(a, v), plain(a, v));
  expect_equal(bmm(batch, other), plain(batch, other));
  expect_equal(dot(v, v), sum(square(Tensor(v))));
  expect_equal(outer(v, input), plain(unsqueeze(v, 1), unsqueeze(input, 0)));
  expect_equal(addmm(input, a, b, 0.5, 2), Tensor(input) * 0.5 + plain(a, b) * 2);
  expect_equal(addmm(nan, a, b, 0, 1), plain(a, b));
  const std::vector<std::pair<std::string, Function>> cases = {
      {"addmm", [](const auto& in) { return square(addmm(in[2], in[0], in[1], 0.5, 2)); }},
      {"outer", [](const auto& in) { return square(outer(in[2], in[2])); }},
      {"linear", [](const auto& in) { return square(linear(in[0], in[1].mT(), in[2])); }},
      {"linear of a vector",
       [](const auto& in) { return square(linear(select(in[0], 0, 1), in[1].mT())); }}};
  for (const auto& [name, f] : cases) {
    SCOPED_TRACE(name);
    expect_gradients(f, {a, b, input});
    expect_second_gradients(f, {a, b, input});
    expect_recorded_equals_fused(f, {a, b, input});
  }
}

TEST(LinearAlgebra, LinearOfNothing) {
  for (const auto& [x, weight] : std::vector<std::pair<Shape, Shape>>{{{0, 3}, {4, 3}},
                                                                      {{2, 0}, {4, 0}},
                                                                      {{2, 3}, {0, 3}},
                                                                      {{0}, {2, 0}},
                                                                      {{2, 0, 3}, {4, 3}}}) {
    SCOPED_TRACE(x.to_string());
    const Array bias = random_array({weight[0]}, 3);
    const Function f = [](const auto& in) { return square(linear(in[0], in[1], in[2])); };
    expect_gradients(f, {random_array(x, 1), random_array(weight, 2), bias});
  }
}

TEST(LinearAlgebra, LinearOfAWeightWithoutOutputsIsAProductWithAVector) {
  const Tensor x = Tensor::variable(random_array({2, 3, 4}, 1));
  const Tensor w = Tensor::variable(random_array({4}, 2));
  const Tensor y = linear(x, w);
  ASSERT_EQ(y.shape(), Shape({2, 3}));
  EXPECT_LT(max(abs(y - matmul(x, w))).item(), 1e-14);
  sum(y).backward();
  EXPECT_EQ(w.grad().shape(), Shape({4}));
}

TEST(LinearAlgebra, EveryDtypeAndLayout) {
  const Array values = Array::from<int64_t>({1, -2, 3, 0, 5, -1}, {2, 3});
  for (DType dtype : {DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32}) {
    const Tensor a = kernels::cast(values, dtype);
    expect_equal(matmul(a, a.mT()), plain(values, Tensor(values).mT()));
    EXPECT_EQ(matmul(a, a.mT()).dtype(), dtype);
    EXPECT_EQ(einsum("ij,kj->ik", {a, a}).dtype(), dtype);
    const Tensor row = expand(narrow(a, 0, 1, 1), {3, 3});
    expect_equal(matmul(a, row), matmul(a, Tensor(kernels::copy(row.value()))));
    expect_equal(addmm(row, row, row, 2, 3), row * 2 + matmul(row, row) * 3);
  }
}

// An einsum with letters only, by walking over all labels.
Tensor walked(const std::string& equation, const std::vector<Tensor>& operands) {
  std::map<char, int64_t> sizes, at;
  std::vector<std::string> terms(1);
  for (char c : equation) {
    if (c == ',' || c == '>') terms.emplace_back();
    if (std::isalpha(c)) terms.back() += c;
  }
  for (size_t i = 0; i < operands.size(); ++i) {
    for (size_t d = 0; d < terms[i].size(); ++d) {
      int64_t& size = sizes[terms[i][d]];
      size = std::max(size, operands[i].dim(static_cast<int>(d)));
    }
  }
  Shape shape;
  for (char c : terms.back()) shape.append(sizes[c]);
  const auto position = [&](const std::string& labels, const Shape& dims) {
    int64_t place = 0;
    for (size_t d = 0; d < labels.size(); ++d) {
      const int64_t size = dims[static_cast<int>(d)];
      place = place * size + (size == 1 ? 0 : at[labels[d]]);
    }
    return place;
  };
  std::vector<double> out(static_cast<size_t>(shape.elements()));
  std::vector<std::vector<double>> values;
  for (const Tensor& operand : operands) values.push_back(operand.to_vector<double>());
  int64_t all = 1;
  for (const auto& [label, size] : sizes) all *= size;
  for (int64_t i = 0; i < all; ++i) {
    int64_t rest = i;
    for (const auto& [label, size] : sizes) {
      at[label] = rest % size;
      rest /= size;
    }
    double product = 1;
    for (size_t k = 0; k < operands.size(); ++k) {
      product *= values[k][position(terms[k], operands[k].shape())];
    }
    out[position(terms.back(), shape)] += product;
  }
  return Array::from(out, shape);
}

TEST(Einsum, EqualsPlainSumsWithGradients) {
  const std::vector<std::pair<std::string, std::vector<Shape>>> cases = {
      {"ij->ji", {{2, 3}}},
      {"ij->", {{2, 3}}},
      {"ii->i", {{3, 3}}},
      {"ii->", {{3, 3}}},
      {"iji->ij", {{2, 3, 2}}},
      {"ij,jk->ik", {{2, 3}, {3, 4}}},
      {"ij,jk->ki", {{2, 3}, {3, 4}}},
      {"ij,ij->ij", {{2, 3}, {2, 3}}},
      {"i,j->ji", {{2}, {3}}},
      {"i,i->", {{3}, {3}}},
      {"bij,bjk->bik", {{2, 3, 4}, {2, 4, 2}}},
      {"bhqd,bhkd->bhqk", {{2, 2, 3, 4}, {2, 2, 2, 4}}},
      {"ij,jk->ik", {{2, 1}, {3, 2}}},
      {"bi,bi->b", {{1, 3}, {2, 3}}},
      {"ab,bc,cd->ad", {{2, 3}, {3, 2}, {2, 4}}},
      {"ab,cb,db,ab->acd", {{2, 3}, {2, 3}, {2, 3}, {2, 3}}},
      {"iij,jkk->ik", {{2, 2, 3}, {3, 4, 4}}},
      {"ij,kl->", {{2, 3}, {3, 2}}},
      {"i,->i", {{3}, {}}},
      {"ij,jk->ik", {{2, 0}, {0, 3}}}};
  for (const auto& [equation, shapes] : cases) {
    SCOPED_TRACE(equation);
    std::vector<Array> inputs;
    std::vector<Tensor> operands;
    for (const Shape& shape : shapes) {
      inputs.push_back(random_array(shape, inputs.size() + 1));
      operands.emplace_back(inputs.back());
    }
    expect_equal(einsum(equation, operands), walked(equation, operands));
    const Function f = [&](const auto& in) { return square(einsum(equation, in)); };
    expect_gradients(f, inputs);
    expect_second_gradients(f, inputs);
    expect_recorded_equals_fused(f, inputs);
  }
}

TEST(Einsum, EllipsisSpacesAndImplicitOutput) {
  const Tensor a = random_array({2, 3}, 1), b = random_array({3, 4}, 2);
  const Tensor x = random_array({5, 2, 3}, 3), y = random_array({5, 1, 3, 4}, 4);
  expect_equal(einsum(" i j , j k -> i k ", {a, b}), matmul(a, b));
  expect_equal(einsum("ij,jk", {a, b}), matmul(a, b));
  expect_equal(einsum("ba", {a}), a.mT());
  expect_equal(einsum("bA", {a}), a.mT());
  expect_equal(einsum("...ij->...ji", {x}), x.mT());
  expect_equal(einsum("...ij,...jk->...ik", {x, y}), matmul(x, y));
  expect_equal(einsum("...ij,jk", {x, b}), matmul(x, b));
  expect_equal(einsum("i...->...", {x}), sum(x, {0}));
  expect_equal(einsum("i...->i", {x}), sum(x, {1, 2}));
  expect_equal(einsum("...,...->...", {x, a}), x * a);
}

TEST(LinearAlgebra, Errors) {
  const Tensor a = random_array({2, 3}, 1), v = random_array({3}, 2), none;
  const Tensor scalar = Array::full({}, 1, DType::f64), single = to(a, DType::f32);
  const Tensor truth = to(a, DType::boolean);
  EXPECT_THROW(matmul(a, a), Error);
  EXPECT_THROW(matmul(scalar, a), Error);
  EXPECT_THROW(matmul(a, single.mT()), Error);
  EXPECT_THROW(matmul(truth, truth.mT()), Error);
  EXPECT_THROW(matmul(random_array({2, 2, 3}, 1), random_array({3, 3, 1}, 1)), Error);
  EXPECT_THROW(mm(a, v), Error);
  EXPECT_THROW(mv(a, a), Error);
  EXPECT_THROW(bmm(a, a), Error);
  EXPECT_THROW(bmm(random_array({1, 2, 3}, 1), random_array({2, 3, 1}, 1)), Error);
  EXPECT_THROW(dot(a, v), Error);
  EXPECT_THROW(dot(v, random_array({2}, 1)), Error);
  EXPECT_THROW(outer(a, v), Error);
  EXPECT_THROW(addmm(v, a, a.mT()), Error);
  EXPECT_THROW(addmm(single, a, a.mT()), Error);
  EXPECT_THROW(linear(a, a.mT()), Error);
  EXPECT_THROW(linear(a, a, v), Error);
  EXPECT_THROW(linear(single, a), Error);
  EXPECT_THROW(linear(scalar, a), Error);
  EXPECT_THROW(linear(truth, truth), Error);
  for (const char* equation : {"ij", "ij,jk,kl", "ij,j1", "ij,jk->il", "ij,jk->ii", "ijk,jk",
                               "i..j,jk", "ij,ik", "......,jk", "ij,jk->i->k"}) {
    EXPECT_THROW(einsum(equation, {a, random_array({3, 4}, 1)}), Error) << equation;
  }
  EXPECT_THROW(einsum("ii", {a}), Error);
  EXPECT_THROW(einsum("", {}), Error);
  EXPECT_THROW(einsum("i,i", {v, to(v, DType::f32)}), Error);
  const std::vector<std::function<void()>> empty = {
      [&] { matmul(none, a); }, [&] { matmul(a, none); }, [&] { linear(none, a); },
      [&] { linear(a, none); }, [&] { mm(none, none); },  [&] { addmm(none, a, a.mT()); },
      [&] { outer(v, none); },  [&] { dot(none, v); },    [&] { einsum("i", {none}); }};
  for (size_t i = 0; i < empty.size(); ++i) EXPECT_THROW(empty[i](), Error) << i;
}

}  // namespace
}  // namespace lockstep::testing
