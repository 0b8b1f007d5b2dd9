#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lockstep/nn/parameter.h"
#include "lockstep/runtime/trace.h"

namespace lockstep::nn {

class Module;

// Walks a module's state in declaration order. One enumeration serves parameter lists, checkpoint
// names, placing, data parallelism and printing. Names are paths: "h.0.attn.c_attn.weight".
class Visitor {
 public:
  virtual ~Visitor() = default;

  void operator()(std::string_view name, Parameter& parameter);
  void operator()(std::string_view name, Buffer& buffer);
  void operator()(std::string_view name, Module& module);
  template <class T>
  void operator()(std::string_view name, std::vector<T>& items) {
    Path path(*this, name);
    for (size_t i = 0; i < items.size(); ++i) (*this)(std::to_string(i), items[i]);
  }
  template <class T>
  void operator()(std::string_view name, std::optional<T>& item) {
    if (item) (*this)(name, *item);
  }

 protected:
  virtual void parameter(const std::string& path, Parameter& parameter) = 0;
  virtual void buffer(const std::string& path, Buffer& buffer) = 0;
  // Before the module's own state is walked.
  virtual void module(const std::string& path, Module& module);

 private:
  class Path {  // one name deeper, while it lives
   public:
    Path(Visitor& visitor, std::string_view name);
    ~Path() { visitor_.path_.resize(length_); }

   private:
    Visitor& visitor_;
    size_t length_;
  };

  std::string path_;
};

struct NamedParameter {
  std::string name;
  Parameter parameter;
};
struct NamedBuffer {
  std::string name;
  Buffer buffer;
};

// A part of a model: parameters, buffers and modules, listed by visit(). Movable, not copyable.
class Module {
 public:
  Module() = default;
  Module(Module&&) = default;
  Module& operator=(Module&&) = default;
  virtual ~Module() = default;

  virtual void visit(Visitor& visitor) = 0;

  // In the order of visit(); a tied parameter once, under its first name.
  std::vector<NamedParameter> named_parameters();
  std::vector<NamedBuffer> named_buffers();
  std::vector<Parameter> parameters();
  int64_t parameter_count();

  // Gives every parameter and buffer memory and initial values. Done at the first call with the
  // default placement when nobody did it before. Placing again is an error.
  void place(const Placement& placement);
  bool placed() const { return placed_; }
  // For who gives parameters memory by other means.
  void mark_placed();

  // Training mode: dropout and batch statistics. On from the start.
  void train(bool on = true);
  bool training() const { return training_; }

  // The path below the module that was placed; empty for that one.
  const std::string& path() const { return path_; }

 private:
  bool placed_ = false;
  bool training_ = true;
  std::string path_;
};

// What users derive from: write `forward(…)` of whatever shape and call the module like a function.
// The call opens the module's scope (names in errors and traces).
template <class Self>
class Layer : public Module {
 public:
  template <class... Args>
  decltype(auto) operator()(Args&&... args) {
    if (!placed()) [[unlikely]]
      place({});
    const ScopeFrame scope(path());
    return static_cast<Self*>(this)->forward(std::forward<Args>(args)...);
  }
};

}  // namespace lockstep::nn
