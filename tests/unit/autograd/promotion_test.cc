// Result dtypes against tables recorded from PyTorch 2.15.
#include "lockstep/autograd/promotion.h"

#include <gtest/gtest.h>

#include <sstream>

#include "lockstep/autograd/ops.h"

namespace lockstep {
namespace {

constexpr DType kDtypes[] = {DType::f64, DType::f32, DType::bf16, DType::f16,
                             DType::i64, DType::i32, DType::u8,   DType::boolean};

// torch.result_type(a, b). A row is an a: of each dtype with dimensions, then of each with rank 0.
// A column is a b: with dimensions, with rank 0, then the numbers True, 1 and 1.5.
constexpr const char* kResultTypes[] = {
    "f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64",
    "f64 f32 f32 f32 f32 f32 f32 f32 f32 f32 f32 f32 f32 f32 f32 f32 f32 f32 f32",
    "f64 f32 bf16 f32 bf16 bf16 bf16 bf16 bf16 bf16 bf16 bf16 bf16 bf16 bf16 bf16 bf16 bf16 bf16",
    "f64 f32 f32 f16 f16 f16 f16 f16 f16 f16 f16 f16 f16 f16 f16 f16 f16 f16 f16",
    "f64 f32 bf16 f16 i64 i64 i64 i64 f64 f32 bf16 f16 i64 i64 i64 i64 i64 i64 f32",
    "f64 f32 bf16 f16 i64 i32 i32 i32 f64 f32 bf16 f16 i32 i32 i32 i32 i32 i32 f32",
    "f64 f32 bf16 f16 i64 i32 u8 u8 f64 f32 bf16 f16 u8 u8 u8 u8 u8 u8 f32",
    "f64 f32 bf16 f16 i64 i32 u8 bool f64 f32 bf16 f16 i64 i32 u8 bool bool i64 f32",
    "f64 f32 bf16 f16 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64 f64",
    "f64 f32 bf16 f16 f32 f32 f32 f32 f64 f32 f32 f32 f32 f32 f32 f32 f32 f32 f32",
    "f64 f32 bf16 f16 bf16 bf16 bf16 bf16 f64 f32 bf16 f32 bf16 bf16 bf16 bf16 bf16 bf16 bf16",
    "f64 f32 bf16 f16 f16 f16 f16 f16 f64 f32 f32 f16 f16 f16 f16 f16 f16 f16 f16",
    "f64 f32 bf16 f16 i64 i32 u8 i64 f64 f32 bf16 f16 i64 i64 i64 i64 i64 i64 f32",
    "f64 f32 bf16 f16 i64 i32 u8 i32 f64 f32 bf16 f16 i64 i32 i32 i32 i32 i32 f32",
    "f64 f32 bf16 f16 i64 i32 u8 u8 f64 f32 bf16 f16 i64 i32 u8 u8 u8 u8 f32",
    "f64 f32 bf16 f16 i64 i32 u8 bool f64 f32 bf16 f16 i64 i32 u8 bool bool i64 f32",
};

// The result's dtype for each dtype of the operand; "-": an error.
constexpr const char* kUnary[][2] = {
    {"neg", "f64 f32 bf16 f16 i64 i32 u8 -"},
    {"abs", "f64 f32 bf16 f16 i64 i32 u8 -"},
    {"sign", "f64 f32 bf16 f16 i64 i32 u8 bool"},
    {"square", "f64 f32 bf16 f16 i64 i32 u8 i64"},
    {"relu", "f64 f32 bf16 f16 i64 i32 u8 -"},
    {"floor", "f64 f32 bf16 f16 i64 i32 u8 -"},
    {"trunc", "f64 f32 bf16 f16 i64 i32 u8 -"},
    {"sqrt", "f64 f32 bf16 f16 f32 f32 f32 f32"},
    {"exp", "f64 f32 bf16 f16 f32 f32 f32 f32"},
    {"sigmoid", "f64 f32 bf16 f16 f32 f32 f32 f32"},
    {"reciprocal", "f64 f32 bf16 f16 f32 f32 f32 f32"},
    {"isnan", "bool bool bool bool bool bool bool bool"},
    {"logical_not", "bool bool bool bool bool bool bool bool"},
};

// Both operands of one dtype; then the number 2 as the second; then 2.5.
constexpr const char* kBinary[][4] = {
    {"add", "f64 f32 bf16 f16 i64 i32 u8 bool", "f64 f32 bf16 f16 i64 i32 u8 i64",
     "f64 f32 bf16 f16 f32 f32 f32 f32"},
    {"sub", "f64 f32 bf16 f16 i64 i32 u8 -", "f64 f32 bf16 f16 i64 i32 u8 -",
     "f64 f32 bf16 f16 f32 f32 f32 -"},
    {"mul", "f64 f32 bf16 f16 i64 i32 u8 bool", "f64 f32 bf16 f16 i64 i32 u8 i64",
     "f64 f32 bf16 f16 f32 f32 f32 f32"},
    {"div", "f64 f32 bf16 f16 f32 f32 f32 f32", "f64 f32 bf16 f16 f32 f32 f32 f32",
     "f64 f32 bf16 f16 f32 f32 f32 f32"},
    {"pow", "f64 f32 bf16 f16 i64 i32 u8 -", "f64 f32 bf16 f16 i64 i32 u8 i64",
     "f64 f32 bf16 f16 f32 f32 f32 f32"},
    {"fmod", "f64 f32 bf16 f16 i64 i32 u8 -", "f64 f32 bf16 f16 i64 i32 u8 i64",
     "f64 f32 bf16 f16 f32 f32 f32 f32"},
    {"remainder", "f64 f32 bf16 f16 i64 i32 u8 -", "f64 f32 bf16 f16 i64 i32 u8 i64",
     "f64 f32 bf16 f16 f32 f32 f32 f32"},
    {"floor_divide", "f64 f32 bf16 f16 i64 i32 u8 -", "f64 f32 bf16 f16 i64 i32 u8 i64",
     "f64 f32 bf16 f16 f32 f32 f32 f32"},
    {"trunc_divide", "f64 f32 bf16 f16 i64 i32 u8 -", "f64 f32 bf16 f16 i64 i32 u8 i64",
     "f64 f32 bf16 f16 f32 f32 f32 f32"},
    {"maximum", "f64 f32 bf16 f16 i64 i32 u8 bool", "- - - - - - - -", "- - - - - - - -"},
    {"atan2", "f64 f32 bf16 f16 f32 f32 f32 f32", "- - - - - - - -", "- - - - - - - -"},
    {"eq", "bool bool bool bool bool bool bool bool", "bool bool bool bool bool bool bool bool",
     "bool bool bool bool bool bool bool bool"},
    {"lt", "bool bool bool bool bool bool bool bool", "bool bool bool bool bool bool bool bool",
     "bool bool bool bool bool bool bool bool"},
    {"logical_and", "bool bool bool bool bool bool bool bool", "- - - - - - - -",
     "- - - - - - - -"},
};

std::vector<std::string> words(const char* line) {
  std::istringstream stream(line);
  std::vector<std::string> result;
  for (std::string word; stream >> word;) result.push_back(word);
  return result;
}

Tensor ones_of(DType dtype, bool dimensioned) {
  return Tensor(Array::full(dimensioned ? Shape{2} : Shape{}, 1, dtype));
}

// "-" where it throws.
template <class F>
std::string dtype_of_result(const F& f) {
  try {
    return std::string(name_of(f().dtype()));
  } catch (const Error&) {
    return "-";
  }
}

TEST(Promotion, ResultTypes) {
  for (size_t row = 0; row < 16; ++row) {
    const Tensor a = ones_of(kDtypes[row % 8], row < 8);
    const std::vector<std::string> expected = words(kResultTypes[row]);
    ASSERT_EQ(expected.size(), 19U);
    for (size_t column = 0; column < 19; ++column) {
      Tensor b = Tensor(true);
      if (column < 16) b = ones_of(kDtypes[column % 8], column < 8);
      if (column == 17) b = Tensor(1);
      if (column == 18) b = Tensor(1.5);
      EXPECT_EQ(name_of(result_type({&a, &b})), expected[column]) << row << ", " << column;
      EXPECT_EQ(name_of(result_type({&b, &a})), expected[column]) << row << ", " << column;
      EXPECT_EQ(name_of((a * b).dtype()), expected[column]) << row << ", " << column;
      EXPECT_EQ(name_of(where(ones_of(DType::boolean, true), b, a).dtype()), expected[column]);
    }
  }
}

TEST(Promotion, UnaryOps) {
  const std::pair<const char*, Tensor (*)(const Tensor&)> ops[] = {{"neg", neg},
                                                                   {"abs", abs},
                                                                   {"sign", sign},
                                                                   {"square", square},
                                                                   {"relu", relu},
                                                                   {"floor", floor},
                                                                   {"trunc", trunc},
                                                                   {"sqrt", sqrt},
                                                                   {"exp", exp},
                                                                   {"sigmoid", sigmoid},
                                                                   {"reciprocal", reciprocal},
                                                                   {"isnan", isnan},
                                                                   {"logical_not", logical_not}};
  ASSERT_EQ(std::size(ops), std::size(kUnary));
  for (size_t i = 0; i < std::size(ops); ++i) {
    ASSERT_STREQ(ops[i].first, kUnary[i][0]);
    const std::vector<std::string> expected = words(kUnary[i][1]);
    for (size_t d = 0; d < 8; ++d) {
      EXPECT_EQ(dtype_of_result([&] { return ops[i].second(ones_of(kDtypes[d], true)); }),
                expected[d])
          << kUnary[i][0] << " of " << name_of(kDtypes[d]);
    }
  }
}

struct BinaryOp {
  const char* name;
  Tensor (*tensors)(const Tensor&, const Tensor&);
  Tensor (*number)(const Tensor&, Scalar) = nullptr;  // null: takes no number
};

TEST(Promotion, BinaryOps) {
  const BinaryOp ops[] = {{"add", add, add},
                          {"sub", sub, sub},
                          {"mul", mul, mul},
                          {"div", div, div},
                          {"pow", pow, pow},
                          {"fmod", fmod, fmod},
                          {"remainder", remainder, remainder},
                          {"floor_divide", floor_divide,
                           [](const Tensor& a, Scalar b) { return div(a, b, Rounding::floor); }},
                          {"trunc_divide", trunc_divide,
                           [](const Tensor& a, Scalar b) { return div(a, b, Rounding::trunc); }},
                          {"maximum", maximum},
                          {"atan2", atan2},
                          {"eq", eq, eq},
                          {"lt", lt, lt},
                          {"logical_and", logical_and}};
  ASSERT_EQ(std::size(ops), std::size(kBinary));
  for (size_t i = 0; i < std::size(ops); ++i) {
    ASSERT_STREQ(ops[i].name, kBinary[i][0]);
    for (size_t d = 0; d < 8; ++d) {
      const Tensor x = ones_of(kDtypes[d], true);
      EXPECT_EQ(dtype_of_result([&] { return ops[i].tensors(x, x); }), words(kBinary[i][1])[d])
          << ops[i].name << " of " << name_of(kDtypes[d]);
      if (ops[i].number == nullptr) continue;
      EXPECT_EQ(dtype_of_result([&] { return ops[i].number(x, 2); }), words(kBinary[i][2])[d])
          << ops[i].name << " of " << name_of(kDtypes[d]) << " and 2";
      EXPECT_EQ(dtype_of_result([&] { return ops[i].number(x, 2.5); }), words(kBinary[i][3])[d])
          << ops[i].name << " of " << name_of(kDtypes[d]) << " and 2.5";
    }
  }
}

TEST(Promotion, GradientsComeBackInTheOperandsDtype) {
  const Tensor a = Tensor::variable(Array::full({2}, 3, DType::f32));
  const Tensor b = Tensor::variable(Array::full({2}, 0.5, DType::bf16));
  const Tensor c = Tensor::variable(Array::full({2}, 2, DType::f64));
  const Tensor y = where(tensor({true, false}), a * b, c) + arange(2) * b;
  EXPECT_EQ(y.dtype(), DType::f64);
  sum(y).backward();
  EXPECT_EQ(a.grad().dtype(), DType::f32);
  EXPECT_EQ(b.grad().dtype(), DType::bf16);
  EXPECT_EQ(a.grad().to_vector<double>(), (std::vector<double>{0.5, 0}));
  EXPECT_EQ(b.grad().to_vector<double>(), (std::vector<double>{3, 1}));
  EXPECT_EQ(c.grad().to_vector<double>(), (std::vector<double>{0, 1}));
}

TEST(Promotion, IntegersStayExact) {
  const int64_t large = (int64_t{1} << 60) + 1;
  const Tensor x(Array::from<int64_t>({large, -7, INT64_MIN}, {3}));
  const auto values = [](const Tensor& t) { return t.to_vector<int64_t>(); };
  using Integers = std::vector<int64_t>;
  EXPECT_EQ(values(x + 1), (Integers{large + 1, -6, INT64_MIN + 1}));
  EXPECT_EQ(values(x * 2)[0], 2 * large);
  EXPECT_EQ(values(clamp(x, -3, large - 1)), (Integers{large - 1, -3, -3}));
  EXPECT_EQ(values(div(x, 2, Rounding::floor))[1], -4);
  EXPECT_EQ(values(div(x, 2, Rounding::trunc))[1], -3);
  EXPECT_EQ(values(div(x, -1, Rounding::trunc))[2], INT64_MIN);
  EXPECT_EQ(values(remainder(x, -1))[2], 0);
  EXPECT_EQ(values(fmod(x, 2))[1], -1);
  EXPECT_EQ(values(pow(x, 2))[1], 49);
  EXPECT_EQ(values(pow(2, arange(3))), (Integers{1, 2, 4}));
  EXPECT_EQ(values(x == large), (Integers{1, 0, 0}));
  EXPECT_EQ(values(full({1}, large)), (Integers{large}));
  EXPECT_EQ(values(hardtanh(x, -3, 3)), (Integers{3, -3, -3}));
  EXPECT_THROW(pow(x, -1), Error);
  EXPECT_THROW(remainder(x, 0), Error);
  EXPECT_THROW(fmod(x, 0), Error);
  EXPECT_THROW(div(x, 0, Rounding::floor), Error);
  EXPECT_THROW(div(x, tensor({1, 0, 1}), Rounding::trunc), Error);
}

// A number that u8 does not hold: wrapped by arithmetic, compared as it is.
TEST(Promotion, NumbersOutsideTheDtype) {
  const Tensor bytes = tensor({200, 3, 44}, {.dtype = DType::u8});
  const auto values = [](const Tensor& t) { return t.to_vector<int64_t>(); };
  using Integers = std::vector<int64_t>;
  EXPECT_EQ(values(bytes + 300), (Integers{244, 47, 88}));
  EXPECT_EQ(values(bytes == 300), (Integers{0, 0, 0}));
  EXPECT_EQ(values(bytes < 300), (Integers{1, 1, 1}));
  EXPECT_EQ(values(-bytes), (Integers{56, 253, 212}));
}

TEST(Promotion, NumbersAloneStayWeak) {
  const Tensor half = Tensor(1) / Tensor(2);
  EXPECT_TRUE(half.is_weak_scalar());
  EXPECT_EQ(half.item(), 0.5);
  EXPECT_EQ((tensor({1.0}) * half).dtype(), DType::f32);
  EXPECT_EQ((tensor({1.0}, {.dtype = DType::bf16}) * exp(Tensor(1))).dtype(), DType::bf16);
  EXPECT_EQ((arange(2) * (Tensor(1) + Tensor(2))).dtype(), DType::i64);
  EXPECT_EQ(where(tensor({true}), 1, 2.5).dtype(), DType::f32);
  EXPECT_EQ(where(tensor({true}), 1, 2).dtype(), DType::i64);
}

}  // namespace
}  // namespace lockstep
