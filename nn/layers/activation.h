#pragma once

#include "lockstep/autograd/ops/activation.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/normalization.h"
#include "lockstep/nn/module.h"

// The elementwise functions as layers; formulas and kinks are those of the functions.
namespace lockstep::nn {

// An argument of layers that have one within them: linear(x, Activation::relu).
using lockstep::Activation;

struct ReLU : StatelessLayer<ReLU> {
  Tensor forward(const Tensor& x) { return relu(x); }
};

struct GELU : StatelessLayer<GELU> {
  explicit GELU(GeluForm approximate = GeluForm::erf) : approximate(approximate) {}
  Tensor forward(const Tensor& x) { return gelu(x, approximate); }
  std::string describe() const override {
    return approximate == GeluForm::erf ? "approximate='none'" : "approximate='tanh'";
  }

  GeluForm approximate;
};

struct SiLU : StatelessLayer<SiLU> {
  Tensor forward(const Tensor& x) { return silu(x); }
};

struct Mish : StatelessLayer<Mish> {
  Tensor forward(const Tensor& x) { return mish(x); }
};

struct ELU : StatelessLayer<ELU> {
  explicit ELU(double alpha = 1) : alpha(alpha) {}
  Tensor forward(const Tensor& x) { return elu(x, alpha); }
  std::string describe() const override { return concat({"alpha=", alpha}); }

  double alpha;
};

struct SELU : StatelessLayer<SELU> {
  Tensor forward(const Tensor& x) { return selu(x); }
};

struct CELU : StatelessLayer<CELU> {
  explicit CELU(double alpha = 1) : alpha(alpha) {}
  Tensor forward(const Tensor& x) { return celu(x, alpha); }
  std::string describe() const override { return concat({"alpha=", alpha}); }

  double alpha;
};

struct LeakyReLU : StatelessLayer<LeakyReLU> {
  explicit LeakyReLU(double negative_slope = 0.01) : negative_slope(negative_slope) {}
  Tensor forward(const Tensor& x) { return leaky_relu(x, negative_slope); }
  std::string describe() const override { return concat({"negative_slope=", negative_slope}); }

  double negative_slope;
};

struct Hardtanh : StatelessLayer<Hardtanh> {
  explicit Hardtanh(double min_val = -1, double max_val = 1) : min_val(min_val), max_val(max_val) {}
  Tensor forward(const Tensor& x) { return hardtanh(x, min_val, max_val); }
  std::string describe() const override {
    return concat({"min_val=", min_val, ", max_val=", max_val});
  }

  double min_val, max_val;
};

struct Hardswish : StatelessLayer<Hardswish> {
  Tensor forward(const Tensor& x) { return hardswish(x); }
};

struct Hardsigmoid : StatelessLayer<Hardsigmoid> {
  Tensor forward(const Tensor& x) { return hardsigmoid(x); }
};

struct Softplus : StatelessLayer<Softplus> {
  explicit Softplus(double beta = 1, double threshold = 20) : beta(beta), threshold(threshold) {}
  Tensor forward(const Tensor& x) { return softplus(x, beta, threshold); }
  std::string describe() const override {
    return concat({"beta=", beta, ", threshold=", threshold});
  }

  double beta, threshold;
};

struct Softsign : StatelessLayer<Softsign> {
  Tensor forward(const Tensor& x) { return softsign(x); }
};

struct Sigmoid : StatelessLayer<Sigmoid> {
  Tensor forward(const Tensor& x) { return sigmoid(x); }
};

struct Tanh : StatelessLayer<Tanh> {
  Tensor forward(const Tensor& x) { return tanh(x); }
};

struct LogSigmoid : StatelessLayer<LogSigmoid> {
  Tensor forward(const Tensor& x) { return logsigmoid(x); }
};

struct Softmax : StatelessLayer<Softmax> {
  explicit Softmax(int dim = -1) : dim(dim) {}
  Tensor forward(const Tensor& x) { return softmax(x, dim); }
  std::string describe() const override { return concat({"dim=", dim}); }

  int dim;
};

struct LogSoftmax : StatelessLayer<LogSoftmax> {
  explicit LogSoftmax(int dim = -1) : dim(dim) {}
  Tensor forward(const Tensor& x) { return log_softmax(x, dim); }
  std::string describe() const override { return concat({"dim=", dim}); }

  int dim;
};

}  // namespace lockstep::nn
