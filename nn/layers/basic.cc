#include "lockstep/nn/layers/basic.h"

#include <cmath>

#include "lockstep/autograd/ops/dropout.h"
#include "lockstep/autograd/ops/index.h"
#include "lockstep/autograd/ops/linear_algebra.h"
#include "lockstep/nn/layers/describe.h"

namespace lockstep::nn {

using internal::text;

Linear::Linear(int64_t in_features, int64_t out_features, const Options& options) {
  LOCKSTEP_CHECK(in_features >= 0 && out_features >= 0, "Linear: ", in_features, " features to ",
                 out_features);
  const Initializer usual =
      Initializer::uniform(in_features > 0 ? 1 / std::sqrt(static_cast<double>(in_features)) : 0);
  weight = Parameter({out_features, in_features}, options.weight_initializer.value_or(usual));
  if (options.bias) bias = Parameter({out_features}, options.bias_initializer.value_or(usual));
}

Tensor Linear::forward(const Tensor& x, Activation activation) {
  return linear(x, weight, bias.tensor_or_empty(), activation);
}

void Linear::visit(Visitor& v) {
  v("weight", weight);
  v("bias", bias);
}

std::string Linear::describe() const {
  return concat({"in_features=", weight.shape()[1], ", out_features=", weight.shape()[0],
                 ", bias=", text(static_cast<bool>(bias))});
}

Embedding::Embedding(int64_t num_embeddings, int64_t embedding_dim, const Options& options)
    : padding_idx(options.padding_idx) {
  LOCKSTEP_CHECK(num_embeddings >= 0 && embedding_dim >= 0, "Embedding: ", num_embeddings,
                 " rows of width ", embedding_dim);
  Initializer initializer = options.weight_initializer;
  if (padding_idx) {
    const int64_t row = *padding_idx < 0 ? *padding_idx + num_embeddings : *padding_idx;
    LOCKSTEP_CHECK(0 <= row && row < num_embeddings, "Embedding: padding_idx ", *padding_idx,
                   " of ", num_embeddings, " rows");
    padding_idx = row;
    initializer = initializer.with_zeros(row * embedding_dim, embedding_dim);
  }
  weight = Parameter({num_embeddings, embedding_dim}, initializer);
}

Tensor Embedding::forward(const Tensor& ids) { return embedding(ids, weight, padding_idx); }

void Embedding::visit(Visitor& v) { v("weight", weight); }

std::string Embedding::describe() const {
  return concat({weight.shape()[0], ", ", weight.shape()[1],
                 padding_idx ? concat({", padding_idx=", *padding_idx}) : std::string()});
}

Dropout::Dropout(double p) : p(p) {
  LOCKSTEP_CHECK(0 <= p && p <= 1, "Dropout: the probability is ", p, ", expected 0 to 1");
}

Tensor Dropout::forward(const Tensor& x) { return dropout(x, p, training()); }

std::string Dropout::describe() const { return concat({"p=", p}); }

std::string Flatten::describe() const {
  return concat({"start_dim=", start_dim, ", end_dim=", end_dim});
}

}  // namespace lockstep::nn
