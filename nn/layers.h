#pragma once

#include <concepts>
#include <memory>
#include <string_view>
#include <vector>

#include "lockstep/autograd/ops.h"
#include "lockstep/nn/module.h"

namespace lockstep::nn {

// y = x Wᵀ + b. weight [out, in], bias [out]; both start uniform in ±1/sqrt(in), as in PyTorch.
struct Linear : Layer<Linear> {
  struct Options {
    bool bias = true;
    std::optional<Initializer> weight_initializer = {};
    std::optional<Initializer> bias_initializer = {};
  };
  Linear(int64_t in, int64_t out) : Linear(in, out, Options()) {}
  Linear(int64_t in, int64_t out, const Options& options);
  Tensor forward(const Tensor& x);
  void visit(Visitor& v) override;

  Parameter weight;
  Parameter bias;  // empty without one
};

// weight [count, width], normal with deviation 1 unless told otherwise.
struct Embedding : Layer<Embedding> {
  Embedding(int64_t count, int64_t width, Initializer initializer = Initializer::normal(1));
  // ids of any shape, i64 -> [ids…, width].
  Tensor forward(const Tensor& ids);
  void visit(Visitor& v) override;

  Parameter weight;
};

// Over the last dimension, of size `width` (Ba, Kiros & Hinton 2016).
struct LayerNorm : Layer<LayerNorm> {
  explicit LayerNorm(int64_t width, double epsilon = 1e-5);
  Tensor forward(const Tensor& x);
  void visit(Visitor& v) override;

  Parameter weight;
  Parameter bias;
  double epsilon;
};

// Active in training mode only.
struct Dropout : Layer<Dropout> {
  explicit Dropout(double probability) : probability(probability) {}
  Tensor forward(const Tensor& x) { return training() ? dropout(x, probability) : x; }
  void visit(Visitor&) override {}

  double probability;
};

struct Gelu : Layer<Gelu> {
  explicit Gelu(GeluForm form = GeluForm::erf) : form(form) {}
  Tensor forward(const Tensor& x) { return gelu(x, form); }
  void visit(Visitor&) override {}

  GeluForm form;
};

struct Relu : Layer<Relu> {
  Tensor forward(const Tensor& x) { return relu(x); }
  void visit(Visitor&) override {}
};

// Multi-head self-attention in which a position sees itself and what is before it (Vaswani et al.
// 2017), with GPT-2's names: c_attn makes queries, keys and values, c_proj joins the heads.
struct CausalSelfAttention : Layer<CausalSelfAttention> {
  struct Options {
    double dropout = 0;  // of the output
    std::optional<Initializer> weight_initializer = {};
    std::optional<Initializer> projection_initializer = {};
    std::optional<Initializer> bias_initializer = {};
  };
  CausalSelfAttention(int64_t width, int heads) : CausalSelfAttention(width, heads, Options()) {}
  CausalSelfAttention(int64_t width, int heads, const Options& options);
  Tensor forward(const Tensor& x);  // [batch, time, width] -> the same
  void visit(Visitor& v) override;

  Linear c_attn;
  Linear c_proj;
  Dropout dropout;
  int heads;
};

// Modules of one tensor in, one out, one after the other.
class Sequential : public Layer<Sequential> {
 public:
  template <class... M>
  requires(std::derived_from<M, Module>&&...) explicit Sequential(M... modules) {
    (items_.push_back(std::make_unique<Holder<M>>(std::move(modules))), ...);
  }
  Tensor forward(const Tensor& x) {
    Tensor y = x;
    for (const auto& item : items_) y = item->call(y);
    return y;
  }
  void visit(Visitor& v) override {
    for (size_t i = 0; i < items_.size(); ++i) v(std::to_string(i), items_[i]->module());
  }

 private:
  struct Item {
    virtual ~Item() = default;
    virtual Tensor call(const Tensor& x) = 0;
    virtual Module& module() = 0;
  };
  template <class M>
  struct Holder final : Item {
    explicit Holder(M held) : held(std::move(held)) {}
    Tensor call(const Tensor& x) override { return held(x); }
    Module& module() override { return held; }
    M held;
  };
  std::vector<std::unique_ptr<Item>> items_;
};

}  // namespace lockstep::nn
