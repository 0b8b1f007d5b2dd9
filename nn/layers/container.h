#pragma once

#include <concepts>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "lockstep/autograd/tensor.h"
#include "lockstep/nn/module.h"

namespace lockstep::nn {

// Modules of one tensor in, one out, one after the other.
class Sequential : public Layer<Sequential> {
 public:
  template <class... M>
  requires(std::derived_from<M, Module>&&...) explicit Sequential(M... modules) {
    (append(std::move(modules)), ...);
  }
  template <std::derived_from<Module> M>
  Sequential& append(M module) {
    items_.push_back(std::make_unique<Holder<M>>(std::move(module)));
    return *this;
  }
  size_t size() const { return items_.size(); }
  Module& operator[](size_t i) { return items_.at(i)->module(); }

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

// Modules of any types in a list, called by whoever holds it. Modules of one type are simpler in a
// std::vector, which visit() takes as it is.
class ModuleList : public Layer<ModuleList> {
 public:
  template <class... M>
  requires(std::derived_from<M, Module>&&...) explicit ModuleList(M... modules) {
    (append(std::move(modules)), ...);
  }
  template <std::derived_from<Module> M>
  M& append(M module) {
    auto held = std::make_unique<M>(std::move(module));
    M& result = *held;
    items_.push_back(std::move(held));
    return result;
  }
  size_t size() const { return items_.size(); }
  Module& operator[](size_t i) { return *items_.at(i); }
  // The module at `i`, which is an M: std::bad_cast if it is another.
  template <class M>
  M& get(size_t i) {
    return dynamic_cast<M&>(*items_.at(i));
  }
  void visit(Visitor& v) override {
    for (size_t i = 0; i < items_.size(); ++i) v(std::to_string(i), *items_[i]);
  }

 private:
  std::vector<std::unique_ptr<Module>> items_;
};

}  // namespace lockstep::nn
