#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "lockstep/nn/layers.h"
#include "support/gradient_check.h"

// The model of the tests of data parallelism.
namespace lockstep::nn::testing_data_parallel {

struct Net : Layer<Net> {
  Linear in{6, 16};
  LayerNorm norm{16};
  Linear middle{16, 16};
  Linear out{16, 4};
  Linear spare{16, 4};  // used when told
  bool use_spare = false;
  Tensor forward(const Tensor& x) {
    const Tensor hidden = gelu(middle(norm(in(x))));
    return use_spare ? out(hidden) + spare(hidden) : out(hidden);
  }
  void visit(Visitor& v) override {
    v("in", in);
    v("norm", norm);
    v("middle", middle);
    v("out", out);
    v("spare", spare);
  }
};

using Values = std::map<std::string, std::vector<double>>;

inline Values values_of(Module& module) {
  Values result;
  for (auto& [name, parameter] : module.named_parameters()) {
    result[name] = parameter.tensor().to_vector<double>();
  }
  return result;
}

inline void expect_close(const Values& a, const Values& b, double tolerance) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, values] : a) {
    for (size_t i = 0; i < values.size(); ++i) {
      EXPECT_NEAR(values[i], b.at(name)[i], tolerance * std::max(1.0, std::abs(values[i]))) << name;
    }
  }
}

inline constexpr int64_t kBatch = 24;

inline Tensor loss_of(Net& net, int step, int64_t first, int64_t count) {
  const Array x = lockstep::testing::random_array({kBatch, 6}, 1000 + step).narrow(0, first, count);
  std::vector<int64_t> labels;
  for (int64_t i = first; i < first + count; ++i) labels.push_back((i * 7 + step) % 4);
  return cross_entropy(net(Tensor(x)), Tensor(Array::from(labels, {count})));
}

}  // namespace lockstep::nn::testing_data_parallel
