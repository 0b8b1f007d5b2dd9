#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "lockstep/runtime/array.h"
#include "lockstep/runtime/context.h"
#include "lockstep/runtime/cpu/cpu_kernels.h"
#include "lockstep/runtime/cpu/level.h"

namespace lockstep::testing {

// How a test array lies in memory.
enum class Layout { contiguous, transposed, sliced, broadcast };
inline constexpr Layout kLayouts[] = {Layout::contiguous, Layout::transposed, Layout::sliced,
                                      Layout::broadcast};
inline constexpr DType kFloats[] = {DType::f64, DType::f32, DType::bf16, DType::f16};

// The CPU kernels of every instruction level that this machine has, with the level's name.
struct LevelKernels {
  std::string name;
  cpu::CpuKernels kernels;
};
inline std::vector<LevelKernels> all_levels() {
  std::vector<LevelKernels> levels;
  for (cpu::Level level : {cpu::Level::v2, cpu::Level::v3, cpu::Level::v4}) {
    if (!cpu::supported(level)) continue;
    levels.push_back({cpu::name_of(level), cpu::CpuKernels(cpu::loops_of(level))});
  }
  return levels;
}

// An uninitialised window of that shape and layout. Broadcast: dimension 0 has stride 0.
inline Array window(const Shape& shape, DType dtype, Layout layout) {
  Shape memory = shape;
  switch (layout) {
    case Layout::contiguous: return Array::empty(shape, dtype);
    case Layout::transposed: {
      if (shape.rank() < 2) return Array::empty(shape, dtype);
      std::swap(memory[0], memory[shape.rank() - 1]);
      return Array::empty(memory, dtype).transpose(0, shape.rank() - 1);
    }
    case Layout::sliced: {
      const int last = shape.rank() - 1;
      memory[last] = 2 * shape[last] + 1;
      return Array::empty(memory, dtype).narrow(last, 1, shape[last], 2);
    }
    case Layout::broadcast: memory[0] = 1; return Array::empty(memory, dtype).expand(shape);
  }
  return {};
}

inline void set(const Array& array, const std::vector<double>& values) {
  const Array source = Array::from(values, array.shape());
  backend_of({}).kernels().copy(source.view(), array.view());
}

// Uniform values in [low, high), rounded to the dtype.
inline Array random(const Shape& shape, DType dtype, Layout layout = Layout::contiguous,
                    double low = -2, double high = 2, unsigned seed = 1) {
  const Array array = window(shape, dtype, layout);
  // A broadcast window is filled through the memory it repeats.
  const Array target = layout == Layout::broadcast ? array.narrow(0, 0, 1) : array;
  std::mt19937_64 generator(seed);
  std::uniform_real_distribution<double> distribution(low, high);
  std::vector<double> values(static_cast<size_t>(target.elements()));
  for (double& value : values) value = distribution(generator);
  set(target, values);
  return array;
}

inline std::vector<double> doubles(const Array& array) { return array.to_vector<double>(); }

// Half a unit in the last place of 1, with room for `operations` roundings.
inline double relative_bound(DType dtype, double operations = 8) {
  switch (dtype) {
    case DType::f64: return operations * 0x1p-52;
    case DType::bf16: return 0x1p-8 + operations * 0x1p-23;
    case DType::f16: return 0x1p-11 * 1.01 + operations * 0x1p-23;
    default: return operations * 0x1p-23;
  }
}

// |actual - expected| <= relative * |expected| + absolute; NaN matches NaN, infinity itself.
inline ::testing::AssertionResult near(double actual, double expected, double relative,
                                       double absolute) {
  if (std::isnan(expected) && std::isnan(actual)) return ::testing::AssertionSuccess();
  if (actual == expected) return ::testing::AssertionSuccess();
  if (std::abs(actual - expected) <= relative * std::abs(expected) + absolute) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << actual << " instead of " << expected;
}

inline void expect_near(const std::vector<double>& actual, const std::vector<double>& expected,
                        double relative, double absolute, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_TRUE(near(actual[i], expected[i], relative, absolute)) << what << ", element " << i;
  }
}

// Sets this thread's thread count for a test's duration.
class Threads {
 public:
  explicit Threads(int count) : before_(context().threads) { context().threads = count; }
  ~Threads() { context().threads = before_; }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

}  // namespace lockstep::testing
