#include <gtest/gtest.h>

#include "kernel_testing.h"

namespace lockstep::testing {
namespace {

// A parameter and its optimizer state, and the same in double.
struct State {
  Array parameter, gradient, m, v;
  std::vector<double> p, g, em, ev;

  State(int64_t n, DType dtype)
      : parameter(random({n}, dtype, Layout::contiguous, -1, 1, 1)),
        gradient(random({n}, dtype, Layout::contiguous, -1, 1, 2)),
        m(Array::zeros({n}, dtype)),
        v(Array::zeros({n}, dtype)),
        p(doubles(parameter)),
        g(doubles(gradient)),
        em(p.size()),
        ev(p.size()) {}

  UpdateRun run(double weight_decay) const {
    return {parameter.data(),     gradient.data(),   m.data(),    v.data(),
            parameter.elements(), parameter.dtype(), weight_decay};
  }
};

constexpr int64_t kSizes[] = {5, 1000, 40'000};

TEST(Update, AdamFollowsThePaper) {
  for (auto& level : all_levels()) {
    for (DType dtype : {DType::f64, DType::f32}) {
      for (bool decoupled : {false, true}) {
        std::vector<State> states;
        for (int64_t n : kSizes) states.emplace_back(n, dtype);
        AdamOptions options{.learning_rate = 0.01, .gradient_scale = 0.5, .decoupled = decoupled};
        for (options.step = 1; options.step <= 3; ++options.step) {
          std::vector<UpdateRun> runs;
          for (size_t i = 0; i < states.size(); ++i) runs.push_back(states[i].run(0.1 * i));
          level.kernels.adam(runs.data(), static_cast<int>(runs.size()), options);
          for (size_t s = 0; s < states.size(); ++s) {
            const double decay = 0.1 * s;
            State& e = states[s];
            for (size_t i = 0; i < e.p.size(); ++i) {
              double g = e.g[i] * 0.5;
              if (!decoupled) g += decay * e.p[i];
              if (decoupled) e.p[i] -= options.learning_rate * decay * e.p[i];
              e.em[i] = options.beta1 * e.em[i] + (1 - options.beta1) * g;
              e.ev[i] = options.beta2 * e.ev[i] + (1 - options.beta2) * g * g;
              const double mean = e.em[i] / (1 - std::pow(options.beta1, options.step));
              const double square = e.ev[i] / (1 - std::pow(options.beta2, options.step));
              e.p[i] -= options.learning_rate * mean / (std::sqrt(square) + options.epsilon);
            }
          }
        }
        const double bound = dtype == DType::f64 ? 1e-13 : 2e-6;
        for (State& e : states) {
          expect_near(doubles(e.parameter), e.p, bound, bound, level.name + " parameter");
          expect_near(doubles(e.m), e.em, bound, bound, level.name + " first moment");
          expect_near(doubles(e.v), e.ev, bound, bound, level.name + " second moment");
        }
      }
    }
  }
}

TEST(Update, SgdFollowsPyTorch) {
  for (auto& level : all_levels()) {
    for (DType dtype : {DType::f64, DType::f32}) {
      for (bool nesterov : {false, true}) {
        for (double momentum : {0.0, 0.9}) {
          State e(40'000, dtype);
          level.kernels.fill(e.m.view(), std::nan(""));  // not read at the first step
          SgdOptions options{.learning_rate = 0.1,
                             .momentum = momentum,
                             .dampening = nesterov ? 0 : 0.25,
                             .nesterov = nesterov,
                             .gradient_scale = 2};
          for (int step = 0; step < 3; ++step) {
            options.first_step = step == 0;
            const UpdateRun run = e.run(0.01);
            level.kernels.sgd(&run, 1, options);
            for (size_t i = 0; i < e.p.size(); ++i) {
              double g = 2 * e.g[i] + 0.01 * e.p[i];
              if (momentum != 0) {
                e.em[i] = step == 0 ? g : momentum * e.em[i] + (1 - options.dampening) * g;
                g = nesterov ? g + momentum * e.em[i] : e.em[i];
              }
              e.p[i] -= 0.1 * g;
            }
          }
          const double bound = dtype == DType::f64 ? 1e-13 : 2e-6;
          expect_near(doubles(e.parameter), e.p, bound, bound, level.name);
        }
      }
    }
  }
}

TEST(Update, ShortFloatsAreUpdatedInF32) {
  for (auto& level : all_levels()) {
    State e(3000, DType::bf16);
    const UpdateRun run = e.run(0);
    level.kernels.adam(&run, 1, {.learning_rate = 0.1});
    for (size_t i = 0; i < e.p.size(); ++i) e.p[i] -= e.g[i] > 0 ? 0.1 : -0.1;
    expect_near(doubles(e.parameter), e.p, relative_bound(DType::bf16), 1e-4, level.name);
    const UpdateRun plain = {
        e.parameter.data(), e.gradient.data(), nullptr, nullptr, 3000, DType::bf16, 0};
    e.p = doubles(e.parameter);
    level.kernels.sgd(&plain, 1, {.learning_rate = 1});
    for (size_t i = 0; i < e.p.size(); ++i) e.p[i] -= e.g[i];
    expect_near(doubles(e.parameter), e.p, relative_bound(DType::bf16), 1e-6, level.name);
  }
}

}  // namespace
}  // namespace lockstep::testing
