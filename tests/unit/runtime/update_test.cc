#include "lockstep/runtime/math/update.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "kernel_testing.h"

namespace lockstep::testing {
namespace {

// A parameter and its optimizer state, and the same in double.
struct State {
  Array parameter, gradient, state[3];
  std::vector<double> p, g, s[3];

  State(int64_t n, DType dtype, int states = 3)
      : parameter(random({n}, dtype, Layout::contiguous, -1, 1, 1)),
        gradient(random({n}, dtype, Layout::contiguous, -1, 1, 2)),
        p(doubles(parameter)),
        g(doubles(gradient)) {
    for (int k = 0; k < states; ++k) {
      state[k] = random({n}, dtype, Layout::contiguous, 0.5, 1, 3 + k);
      s[k] = doubles(state[k]);
    }
  }

  template <class F>
  UpdateRun run(const F& f) const {
    UpdateRun run{.parameter = parameter.data(),
                  .gradient = gradient.data(),
                  .elements = parameter.elements(),
                  .dtype = parameter.dtype()};
    for (int k = 0; k < F::kStates; ++k) run.state[k] = state[k].data();
    std::copy_n(reinterpret_cast<const double*>(&f), math::update_constants_of<F>, run.constants);
    return run;
  }

  // The same update in double.
  template <class F>
  void expect(const F& f) {
    for (size_t i = 0; i < p.size(); ++i) {
      double values[3] = {};
      for (int k = 0; k < F::kStates; ++k) values[k] = s[k][i];
      f(p[i], g[i], values);
      for (int k = 0; k < F::kStates; ++k) s[k][i] = values[k];
    }
  }
};

template <class F>
constexpr int kOp = math::index_of<math::UpdateOps, F>;

// Any constants do: those of each functor are different ones within (0, 1).
template <class F>
F some_constants() {
  double constants[UpdateRun::kConstants];
  for (int i = 0; i < UpdateRun::kConstants; ++i) constants[i] = 0.9 - 0.07 * i;
  return math::make_update<F>(constants);
}

TEST(Update, EveryLoopComputesItsFunctor) {
  for (auto& level : all_levels()) {
    math::for_each(math::UpdateOps{}, [&]<class F>() {
      for (DType dtype : kFloats) {
        const std::string what = level.name + " " + F::name;
        std::vector<State> states;
        for (int64_t n : {5, 1000, 40'000}) states.emplace_back(n, dtype, F::kStates);
        std::vector<UpdateRun> runs;
        for (const State& e : states) runs.push_back(e.run(some_constants<F>()));
        level.kernels.update(kOp<F>, runs.data(), static_cast<int>(runs.size()));
        // Centered RMSprop subtracts nearly equal numbers.
        const double bound = dtype == DType::f64   ? 1e-12
                             : dtype == DType::f32 ? 1e-4
                                                   : 4 * relative_bound(dtype);
        for (State& e : states) {
          e.expect(some_constants<F>());
          expect_near(doubles(e.parameter), e.p, bound, bound, what + " parameter");
          for (int k = 0; k < F::kStates; ++k) {
            expect_near(doubles(e.state[k]), e.s[k], bound, bound, what + " state");
          }
        }
      }
    });
  }
}

TEST(Update, AdamFollowsThePaper) {
  for (auto& level : all_levels()) {
    for (DType dtype : {DType::f64, DType::f32}) {
      for (double decay : {0.0, 0.1}) {
        State e(1000, dtype);
        std::fill(e.s[0].begin(), e.s[0].end(), 0);
        std::fill(e.s[1].begin(), e.s[1].end(), 0);
        for (int k : {0, 1}) level.kernels.fill(e.state[k].view(), 0);
        const double rate = 0.01, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;
        for (int step = 1; step <= 3; ++step) {
          const math::AdamUpdate<false> f{.gradient_scale = 0.5,
                                          .decay = decay,
                                          .parameter_scale = 1 - rate * 0.2,
                                          .beta1 = beta1,
                                          .beta2 = beta2,
                                          .epsilon = epsilon,
                                          .step_size = rate / (1 - std::pow(beta1, step)),
                                          .inverse_root = 1 / std::sqrt(1 - std::pow(beta2, step))};
          const UpdateRun run = e.run(f);
          level.kernels.update(kOp<math::AdamUpdate<false>>, &run, 1);
          for (size_t i = 0; i < e.p.size(); ++i) {
            const double g = e.g[i] * 0.5 + decay * e.p[i];
            double &m = e.s[0][i], &v = e.s[1][i];
            m = beta1 * m + (1 - beta1) * g;
            v = beta2 * v + (1 - beta2) * g * g;
            const double mean = m / (1 - std::pow(beta1, step));
            const double square = v / (1 - std::pow(beta2, step));
            e.p[i] -= rate * 0.2 * e.p[i];
            e.p[i] -= rate * mean / (std::sqrt(square) + epsilon);
          }
        }
        const double bound = dtype == DType::f64 ? 1e-13 : 2e-6;
        expect_near(doubles(e.parameter), e.p, bound, bound, level.name + " parameter");
        expect_near(doubles(e.state[0]), e.s[0], bound, bound, level.name + " first moment");
        expect_near(doubles(e.state[1]), e.s[1], bound, bound, level.name + " second moment");
      }
    }
  }
}

TEST(Update, WritesACopyInSixteenBits) {
  const math::AdamUpdate<false> f{0.5, 0.1, 0.99, 0.9, 0.999, 1e-8, 0.01, 1};
  for (auto& level : all_levels()) {
    for (DType dtype : {DType::f64, DType::f32}) {
      for (DType half : {DType::bf16, DType::f16}) {
        const std::string what = concat({level.name, " ", dtype, " ", half});
        // Several pieces for the threads, and one that does not begin at a boundary.
        for (int64_t n : {1, 1000, 40'001}) {
          const State plain(n, dtype), copied(n, dtype);
          const Array copy = Array::full({n + 2}, 7, half);
          UpdateRun runs[] = {plain.run(f), copied.run(f)};
          runs[1].copy = copy.narrow(0, 1, n).data();
          runs[1].copy_dtype = half;
          level.kernels.update(kOp<math::AdamUpdate<false>>, runs, 2);
          EXPECT_EQ(doubles(copied.parameter), doubles(plain.parameter)) << what;
          const Array expected = Array::empty({n}, half);
          level.kernels.copy(plain.parameter.view(), expected.view());
          EXPECT_EQ(doubles(copy.narrow(0, 1, n)), doubles(expected)) << what;
          EXPECT_EQ(copy.select(0, 0).item(), 7) << what;
          EXPECT_EQ(copy.select(0, n + 1).item(), 7) << what;
        }
      }
    }
  }
}

// PyTorch's rules: a decay of 0 leaves an infinite parameter as it is, a gradient that is not
// finite shows, the largest second moment of amsgrad keeps a NaN.
TEST(Update, ValuesThatAreNotFinite) {
  const double inf = INFINITY, nan = NAN;
  for (auto& level : all_levels()) {
    const auto one = [&]<class F>(const F& f, double p, double g, double largest = 0) {
      State e(1, DType::f32);
      level.kernels.fill(e.parameter.view(), p);
      level.kernels.fill(e.gradient.view(), g);
      level.kernels.fill(e.state[0].view(), 0);
      level.kernels.fill(e.state[1].view(), 0);
      level.kernels.fill(e.state[2].view(), largest);
      const UpdateRun run = e.run(f);
      level.kernels.update(kOp<F>, &run, 1);
      return std::pair(e.parameter.item(), e.state[2].item());
    };
    const math::AdamUpdate<false> adam{1, 0, 1, 0.9, 0.999, 1e-8, 0.1, 1};
    EXPECT_EQ(one(adam, inf, 1).first, inf) << level.name;
    EXPECT_TRUE(std::isnan(one(adam, 1, inf).first)) << level.name;
    EXPECT_TRUE(std::isnan(one(adam, 1, nan).first)) << level.name;
    const math::AdamUpdate<true> amsgrad{1, 0, 1, 0.9, 0.999, 1e-8, 0.1, 1};
    EXPECT_TRUE(std::isnan(one(amsgrad, 1, nan).second)) << level.name;
    EXPECT_TRUE(std::isnan(one(amsgrad, 1, 1, nan).second)) << level.name;
    const math::SgdUpdate sgd{1, 0, 0.1};
    EXPECT_EQ(one(sgd, inf, 1).first, inf) << level.name;
    EXPECT_EQ(one(sgd, 1, inf).first, -inf) << level.name;
    const math::MomentumUpdate momentum{1, 0, 0.1, 0, 1, 0, 1};
    EXPECT_EQ(one(momentum, 1, inf).first, -inf) << level.name;
    const math::LionUpdate lion{1, 1, 0.1, 0.9, 0.99};
    EXPECT_EQ(one(lion, 1, nan).first, 1) << level.name;
  }
}

}  // namespace
}  // namespace lockstep::testing
