#pragma once

#include <optional>

#include "lockstep/autograd/ops/activation.h"
#include "lockstep/autograd/ops/normalization.h"
#include "lockstep/autograd/ops/shape.h"
#include "lockstep/nn/module.h"

namespace lockstep::nn {

// y = x Wᵀ + b. weight [out, in], bias [out]; both start uniform in ±1/sqrt(in), as in PyTorch.
struct Linear : Layer<Linear> {
  struct Options {
    bool bias = true;
    std::optional<Initializer> weight_initializer = {};
    std::optional<Initializer> bias_initializer = {};
  };
  Linear(int64_t in_features, int64_t out_features)
      : Linear(in_features, out_features, Options()) {}
  Linear(int64_t in_features, int64_t out_features, const Options& options);
  // layer(x, Activation::relu) is relu(layer(x)) in one op: see linear().
  Tensor forward(const Tensor& x, Activation activation = Activation::none);
  void visit(Visitor& v) override;
  std::string describe() const override;

  Parameter weight;
  Parameter bias;  // empty without one
};

// weight [count, width], normal with deviation 1 unless told otherwise. Row `padding_idx` (from the
// end when negative) starts at zero and takes no gradient.
struct Embedding : Layer<Embedding> {
  struct Options {
    std::optional<int64_t> padding_idx = {};
    Initializer weight_initializer = Initializer::normal(1);
  };
  Embedding(int64_t num_embeddings, int64_t embedding_dim)
      : Embedding(num_embeddings, embedding_dim, Options()) {}
  Embedding(int64_t num_embeddings, int64_t embedding_dim, const Options& options);
  // ids of any shape, i64 -> [ids…, embedding_dim].
  Tensor forward(const Tensor& ids);
  void visit(Visitor& v) override;
  std::string describe() const override;

  Parameter weight;
  std::optional<int64_t> padding_idx;
};

// Active in training mode only.
struct Dropout : StatelessLayer<Dropout> {
  explicit Dropout(double p = 0.5);
  Tensor forward(const Tensor& x);
  std::string describe() const override;

  double p;
};

struct Identity : StatelessLayer<Identity> {
  Tensor forward(const Tensor& x) { return x; }
};

// Dimensions start_dim … end_dim become one.
struct Flatten : StatelessLayer<Flatten> {
  explicit Flatten(int start_dim = 1, int end_dim = -1) : start_dim(start_dim), end_dim(end_dim) {}
  Tensor forward(const Tensor& x) { return flatten(x, start_dim, end_dim); }
  std::string describe() const override;

  int start_dim, end_dim;
};

}  // namespace lockstep::nn
