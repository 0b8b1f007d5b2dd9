#pragma once

#include <concepts>
#include <filesystem>
#include <functional>
#include <iosfwd>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "lockstep/autograd/checkpoint.h"
#include "lockstep/autograd/record.h"
#include "lockstep/nn/parameter.h"
#include "lockstep/runtime/trace.h"

namespace lockstep::nn {

class Module;

// Walks a module's state in declaration order. One enumeration serves parameter lists, checkpoint
// names, placing, data parallelism and printing. Names are paths: "h.0.attn.c_attn.weight".
// Parameters and buffers that are empty (a bias that is not wanted) are passed over.
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
struct NamedModule {
  std::string name;  // empty for the module that was asked
  Module* module = nullptr;
};
struct NamedArray {
  std::string name;
  Array array;
};

// What load_state() found when it was not strict.
struct LoadReport {
  std::vector<std::string> missing;     // the module has them, the source does not
  std::vector<std::string> unexpected;  // the other way round
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
  // Those that `wanted` accepts: for an optimizer's groups.
  std::vector<Parameter> parameters(
      const std::function<bool(std::string_view name, const Parameter&)>& wanted);
  int64_t parameter_count();
  // This one and all below it, in the order of visit().
  std::vector<NamedModule> named_modules();
  // Calls `act` on all below, then on this one.
  void apply(const std::function<void(Module&)>& act);

  // Gives every parameter and buffer memory and initial values. Done at the first call with the
  // default placement when nobody did it before. Placing again is an error.
  void place(const Placement& placement);
  bool placed() const { return placed_; }
  // For who gives parameters memory by other means.
  void mark_placed();
  // Converts parameters and buffers, but for buffers with a dtype of their own. Places a module
  // that was not. Not for a module under data parallelism.
  void to(DType dtype);

  // Training mode: dropout and batch statistics. On from the start.
  void train(bool on = true);
  void eval() { train(false); }
  bool training() const { return training_; }

  // Whether parameters take gradients and updates: all, or those whose name is `prefix` or lies
  // below it ("encoder" holds "encoder.0.weight"). Throws Error where there is none of that name.
  void requires_grad(bool on = true, std::string_view prefix = "");
  void freeze(std::string_view prefix = "") { requires_grad(false, prefix); }

  // The values of parameters and buffers in the order of visit(), under each of their names: what
  // PyTorch calls state_dict. They share the module's memory. Places a module that was not.
  std::vector<NamedArray> state();
  // Copies values into parameters and buffers, converting their dtypes; a tied parameter needs one
  // of its names. A collective call where parameters are sharded. Throws Error listing every name
  // that does not fit in shape and, if `strict`, every one that is missing or unexpected; then
  // nothing has been copied.
  LoadReport load_state(const std::map<std::string, Array>& values, bool strict = true);
  // From safetensors (a file, an index or a directory: files::open_weights), and to a file.
  LoadReport load_state(const std::filesystem::path& path, bool strict = true);
  void save_state(const std::filesystem::path& path);

  // Its output is computed again in the backward pass instead of keeping what its ops save
  // (checkpoint()): for a Layer whose forward takes tensors and returns one or a pair, where it is
  // called as a function. Others go on as before, and so does a part whose parent reads its
  // parameters (feed_forward(x, c_fc.weight, ...)) or calls it otherwise (norm.add(x, delta)): what
  // is asked for recomputation is the parent then.
  void set_recompute(bool on) { recompute_ = on; }
  bool recomputes() const { return recompute_; }
  // Whether a call has been such.
  bool has_recomputed() const { return has_recomputed_; }

  // The path below the module that was placed; empty for that one.
  const std::string& path() const { return path_; }

  // What printing shows: the type's name, and what it was made with ("in_features=3, bias=True").
  virtual std::string type_name() const;
  virtual std::string describe() const { return ""; }

 private:
  bool placed_ = false;
  bool training_ = true;
  bool recompute_ = false;
  bool has_recomputed_ = false;
  std::string path_;
  template <class Self>
  friend class Layer;  // notes what it has done
};

// The tree of modules as PyTorch prints it:
//   Sequential(
//     (0): Linear(in_features=4, out_features=2, bias=True)
//     (1): ReLU()
//   )
std::string to_string(Module& module);
std::ostream& operator<<(std::ostream& out, Module& module);

// What users derive from: write `forward(…)` of whatever shape and call the module like a function.
// The call opens the module's scope (names in errors and traces).
template <class Self>
class Layer : public Module {
 public:
  template <class... Args>
  decltype(auto) operator()(Args&&... args) {
    if (!placed()) [[unlikely]]
      place({});
    using Result = decltype(static_cast<Self*>(this)->forward(std::forward<Args>(args)...));
    constexpr bool kTensors =
        std::is_same_v<Result, Tensor> || std::is_same_v<Result, std::pair<Tensor, Tensor>>;
    if constexpr (kTensors && requires { again<Result>(args...); }) {
      if (recomputes() && recording()) return again<Result>(args...);
    }
    const ScopeFrame scope(path());
    return static_cast<Self*>(this)->forward(std::forward<Args>(args)...);
  }

 private:
  // Other arguments than the first are kept as they are; tensors among them get their gradients.
  template <class Result, class... Rest>
  requires(std::copy_constructible<Rest>&&...) &&
      requires(Self& self, const Tensor& x, const Rest&... rest) {
    self.forward(x, rest...);
  }
  Result again(const Tensor& first, const Rest&... rest) {
    this->has_recomputed_ = true;
    const auto run = [this, kept = std::tuple<Rest...>(rest...)](const Tensor& input) -> Result {
      const ScopeFrame scope(path());
      return std::apply(
          [&](const Rest&... others) {
            return static_cast<Self*>(this)->forward(input, others...);
          },
          kept);
    };
    if constexpr (std::is_same_v<Result, Tensor>) {
      return checkpoint(run, first);
    } else {
      const std::vector<Tensor> results = checkpoint(
          [run](const Tensor& input) {
            const Result pair = run(input);
            return std::vector<Tensor>{pair.first, pair.second};
          },
          first);
      return {results[0], results[1]};
    }
  }
};

// A layer that has neither parameters nor buffers nor parts.
template <class Self>
class StatelessLayer : public Layer<Self> {
 public:
  void visit(Visitor&) final {}
};

}  // namespace lockstep::nn
