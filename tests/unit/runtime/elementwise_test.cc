#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "functor_cases.h"
#include "kernel_testing.h"

namespace lockstep::testing {
namespace {

using math::BinaryOps;
using math::UnaryOps;

constexpr double kAbsolute = 4e-7;  // of f32, where terms cancel

Elementwise unary_op(int index) { return {index, {kAttributes[0], kAttributes[1]}}; }

double absolute_bound(DType dtype) { return dtype == DType::f64 ? 1e-15 : kAbsolute; }

// Odd sizes, so that every vector length has a remainder, and runs short and long.
const Shape kShapes[] = {{3, 5}, {7, 131}, {2, 1300}, {5, 3, 37}};

std::string describe(const LevelKernels& level, const char* name, DType dtype, Layout layout) {
  return level.name + " " + name + " " + std::string(name_of(dtype)) + " layout " +
         std::to_string(static_cast<int>(layout));
}

TEST(Elementwise, UnaryEqualsItsFunctor) {
  for (auto& level : all_levels()) {
    for (const auto& f : unary_cases()) {
      for (DType dtype : kFloats) {
        for (Layout layout : kLayouts) {
          for (const Shape& shape : kShapes) {
            const Array x = random(shape, dtype, layout);
            const Array y =
                window(shape, dtype, layout == Layout::broadcast ? Layout::contiguous : layout);
            level.kernels.unary(unary_op(f.index), x.view(), y.view());
            std::vector<double> expected = doubles(x);
            for (double& value : expected) value = f.value(value);
            expect_near(doubles(y), expected, relative_bound(dtype, 16), absolute_bound(dtype),
                        describe(level, f.name, dtype, layout));
          }
        }
      }
    }
  }
}

TEST(Elementwise, UnaryBackwardEqualsItsFunctor) {
  for (auto& level : all_levels()) {
    for (const auto& f : unary_cases()) {
      for (DType dtype : kFloats) {
        for (Layout layout : kLayouts) {
          for (double beta : {0.0, 1.0}) {
            const Shape shape{7, 131};
            const Array x = random(shape, dtype, layout, 0.1, 2);
            const Array dy = random(shape, dtype, layout, -1, 1, 2);
            const Array y = random(shape, dtype, Layout::contiguous, 0.5, 1, 3);
            const Array dx = random(shape, dtype, Layout::contiguous, -1, 1, 4);
            const auto before = doubles(dx);
            // What is not read is not there.
            level.kernels.unary_backward(unary_op(f.index), f.reads.a ? x.view() : View(),
                                         f.reads.out ? y.view() : View(), dy.view(), dx.view(),
                                         beta);
            const auto xs = doubles(x), ys = doubles(y), dys = doubles(dy);
            std::vector<double> expected(xs.size());
            for (size_t i = 0; i < xs.size(); ++i) {
              expected[i] = f.grad(xs[i], ys[i]) * dys[i] + beta * before[i];
            }
            expect_near(doubles(dx), expected, relative_bound(dtype, 24), 2 * absolute_bound(dtype),
                        describe(level, f.name, dtype, layout));
          }
        }
      }
    }
  }
}

TEST(Elementwise, BinaryEqualsItsFunctorBothWays) {
  for (auto& level : all_levels()) {
    for (const auto& f : binary_cases()) {
      const Elementwise op{f.index};
      for (DType dtype : kFloats) {
        for (Layout layout : kLayouts) {
          const Shape shape{7, 131};
          const Array a = random(shape, dtype, layout, 0.2, 2, 1);
          const Array b = random(shape, dtype, Layout::broadcast, 0.2, 2, 2);
          const Array out = window(shape, dtype, Layout::sliced);
          const std::string what = describe(level, f.name, dtype, layout);
          level.kernels.binary(op, a.view(), b.view(), out.view());
          const auto as = doubles(a), bs = doubles(b);
          std::vector<double> expected(as.size());
          for (size_t i = 0; i < as.size(); ++i) expected[i] = f.value(as[i], bs[i]);
          expect_near(doubles(out), expected, relative_bound(dtype, 16), absolute_bound(dtype),
                      what);

          const auto outs = doubles(out);
          const Array dy = random(shape, dtype, Layout::transposed, -1, 1, 3);
          const auto dys = doubles(dy);
          for (int operand : {0, 1}) {
            const math::Reads reads = f.reads[operand];
            const Array d = random(shape, dtype);
            level.kernels.binary_backward(op, operand, reads.a ? a.view() : View(),
                                          reads.b ? b.view() : View(),
                                          reads.out ? out.view() : View(), dy.view(), d.view(), 0);
            for (size_t i = 0; i < as.size(); ++i) {
              expected[i] = f.grad[operand](as[i], bs[i], outs[i]) * dys[i];
            }
            expect_near(doubles(d), expected, relative_bound(dtype, 24), 2 * absolute_bound(dtype),
                        what + " operand " + std::to_string(operand));
          }
        }
      }
    }
  }
}

TEST(Elementwise, CompareAndWhereFollowTheirOperands) {
  for (auto& level : all_levels()) {
    for (const auto& f : compare_cases()) {
      for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::i64, DType::u8}) {
        const Shape shape{7, 131};
        const Array a = random(shape, dtype, Layout::transposed, 0, 4, 1);
        const Array b = random(shape, dtype, Layout::broadcast, 0, 4, 2);
        const Array condition = window(shape, DType::boolean, Layout::sliced);
        const Array chosen = Array::empty(shape, dtype);
        level.kernels.compare({f.index}, a.view(), b.view(), condition.view());
        level.kernels.where(condition.view(), a.view(), b.view(), chosen.view());
        const auto as = doubles(a), bs = doubles(b), found = doubles(condition),
                   values = doubles(chosen);
        for (size_t i = 0; i < as.size(); ++i) {
          ASSERT_EQ(found[i] != 0, f.value(as[i], bs[i])) << f.name;
          ASSERT_EQ(values[i], f.value(as[i], bs[i]) ? as[i] : bs[i]);
        }
      }
    }
  }
}

TEST(Elementwise, InfinityAndNanAsInTheScalarFunctions) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  std::vector<double> values(40, 0.5);
  const double special[] = {kInfinity, -kInfinity, std::nan(""), 0.0, -0.0};
  for (size_t i = 0; i < 5; ++i) values[7 * i] = special[i];
  for (auto& level : all_levels()) {
    for (const auto& f : unary_cases()) {
      for (DType dtype : {DType::f64, DType::f32}) {
        const Array x = Array::empty({40}, dtype);
        const Array y = Array::empty({40}, dtype);
        set(x, values);
        level.kernels.unary(unary_op(f.index), x.view(), y.view());
        const auto found = doubles(y);
        for (size_t i = 0; i < 5; ++i) {
          const double expected = f.value(special[i]);
          EXPECT_TRUE(near(found[7 * i], expected, 1e-6, 1e-7))
              << level.name << " " << f.name << "(" << special[i] << ")";
        }
      }
    }
  }
}

TEST(Elementwise, IntegersAreExact) {
  const int64_t large = (int64_t{1} << 60) + 1;
  for (auto& level : all_levels()) {
    const Array a = Array::from<int64_t>({large, -5, 7}, {3});
    const Array b = Array::from<int64_t>({1, 3, -2}, {3});
    const Array out = Array::empty({3}, DType::i64);
    level.kernels.binary({math::index_of<BinaryOps, math::Add>}, a.view(), b.view(), out.view());
    EXPECT_EQ(out.to_vector<int64_t>(), (std::vector<int64_t>{large + 1, -2, 5}));
    level.kernels.binary({math::index_of<BinaryOps, math::Maximum>}, a.view(), b.view(),
                         out.view());
    EXPECT_EQ(out.to_vector<int64_t>(), (std::vector<int64_t>{large, 3, 7}));
    level.kernels.unary({math::index_of<UnaryOps, math::Neg>}, a.view(), out.view());
    EXPECT_EQ(out.to_vector<int64_t>(), (std::vector<int64_t>{-large, 5, -7}));
    const Array divisors = Array::from<int64_t>({-1, 0, 2}, {3});
    const Array smallest = Array::full({3}, -0x1p63, DType::i64);
    level.kernels.binary({math::index_of<BinaryOps, math::FloorDivide>}, smallest.view(),
                         divisors.view(), out.view());
    EXPECT_EQ(out.to_vector<int64_t>(), (std::vector<int64_t>{INT64_MIN, 0, INT64_MIN / 2}));
    level.kernels.binary({math::index_of<BinaryOps, math::Remainder>}, smallest.view(),
                         divisors.view(), out.view());
    EXPECT_EQ(out.to_vector<int64_t>(), (std::vector<int64_t>{0, 0, 0}));
    EXPECT_THROW(level.kernels.unary({math::index_of<UnaryOps, math::Exp>}, a.view(), out.view()),
                 Error);
  }
}

TEST(Elementwise, EveryDtypeConvertsToEveryOther) {
  constexpr DType kAll[] = {DType::f64, DType::f32, DType::bf16, DType::f16,
                            DType::i64, DType::i32, DType::u8,   DType::boolean};
  for (auto& level : all_levels()) {
    for (DType from : kAll) {
      for (DType to : kAll) {
        const bool truncates = !is_floating(to) && to != DType::boolean;
        const Array x = random({9, 33}, from, Layout::transposed, 0, 100);
        const Array y = window({9, 33}, to, Layout::sliced);
        level.kernels.copy(x.view(), y.view());
        const auto xs = doubles(x), ys = doubles(y);
        for (size_t i = 0; i < xs.size(); ++i) {
          double expected = truncates ? std::trunc(xs[i]) : xs[i];
          if (to == DType::boolean) expected = xs[i] != 0;
          ASSERT_TRUE(near(ys[i], expected, truncates ? 0 : relative_bound(to), 0))
              << name_of(from) << " to " << name_of(to);
        }
      }
    }
  }
}

TEST(Elementwise, ShortFloatsRoundToNearestEvenAtEveryLevel) {
  // Every f16 and bf16 pattern goes to f32 and back unchanged; halves between them go to even.
  std::vector<double> patterns;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    Float16 half;
    half.bits = static_cast<uint16_t>(bits);
    const float value = static_cast<float>(half);
    if (std::isfinite(value)) patterns.push_back(value);
  }
  std::vector<double> between = {1 + 0x1p-11, 1 + 3 * 0x1p-11, 65519, 65520, 0x1p-25, 0x1.8p-24};
  const Array exact = Array::empty({static_cast<int64_t>(patterns.size())}, DType::f32);
  const Array half = Array::empty(exact.shape(), DType::f16);
  set(exact, patterns);
  const Array ties = Array::empty({6}, DType::f32);
  const Array rounded = Array::empty({6}, DType::f16);
  set(ties, between);
  for (auto& level : all_levels()) {
    level.kernels.copy(exact.view(), half.view());
    EXPECT_EQ(doubles(half), patterns) << level.name;
    level.kernels.copy(ties.view(), rounded.view());
    const std::vector<double> expected = {1, 1 + 0x1p-9, 65504, INFINITY, 0, 0x1p-23};
    EXPECT_EQ(doubles(rounded), expected) << level.name;
  }
}

TEST(Elementwise, FillAndScaleAddOnWindows) {
  for (auto& level : all_levels()) {
    for (DType dtype : kFloats) {
      for (Layout layout : {Layout::contiguous, Layout::transposed, Layout::sliced}) {
        const Array y = window({5, 67}, dtype, layout);
        level.kernels.fill(y.view(), std::nan(""));
        const Array x = random({5, 67}, dtype, Layout::broadcast);
        level.kernels.scale_add(2, x.view(), 0, y.view());  // beta 0 ignores the NaN
        level.kernels.scale_add(-0.5, x.view(), 3, y.view());
        auto expected = doubles(x);
        for (double& value : expected) value *= 5.5;
        expect_near(doubles(y), expected, 3 * relative_bound(dtype), 0, level.name);
      }
    }
  }
}

bool are_same_bits(const Array& a, const Array& b) {
  return std::memcmp(a.data(), b.data(), static_cast<size_t>(a.elements()) * size_of(a.dtype())) ==
         0;
}

// The last bit may differ between a vector and what is left of a run after them.
TEST(Elementwise, BitsDoNotDependOnTheThreadCount) {
  const int ops[] = {math::index_of<UnaryOps, math::Tanh>, math::index_of<UnaryOps, math::Exp>,
                     math::index_of<UnaryOps, math::Gelu>};
  for (auto& level : all_levels()) {
    for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
      const Array whole = random({331, 1002}, dtype, Layout::contiguous);
      const Array inputs[] = {whole.narrow(1, 1, 999), whole.transpose(0, 1)};
      for (const Array& x : inputs) {
        for (int op : ops) {
          const auto compute = [&](int threads, const Array& y, const Array& dx) {
            const Threads scope(threads);
            level.kernels.unary(unary_op(op), x.view(), y.view());
            level.kernels.unary_backward(unary_op(op), x.view(), y.view(), x.view(), dx.view(), 1);
          };
          const Array y = Array::empty(x.shape(), dtype), dx = Array::zeros(x.shape(), dtype);
          compute(1, y, dx);
          for (int threads : {2, 3}) {
            const Array other = Array::empty(x.shape(), dtype);
            const Array other_dx = Array::zeros(x.shape(), dtype);
            compute(threads, other, other_dx);
            EXPECT_TRUE(are_same_bits(y, other) && are_same_bits(dx, other_dx))
                << level.name << " " << name_of(dtype) << " op " << op << " threads " << threads;
          }
        }
      }
    }
  }
}

TEST(Elementwise, EmptyViewsAreLegal) {
  for (auto& level : all_levels()) {
    const Array x = Array::empty({0, 3}, DType::f32);
    level.kernels.unary(unary_op(math::index_of<UnaryOps, math::Exp>), x.view(), x.view());
    level.kernels.binary({0}, x.view(), x.view(), x.view());
    level.kernels.copy(x.view(), x.view());
    level.kernels.fill(x.view(), 1);
  }
}

}  // namespace
}  // namespace lockstep::testing
