#pragma once

#include <functional>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "lockstep/autograd/tensor.h"

namespace lockstep {

// What ops read while nothing records: how checkpoint() learns which parameters its function uses.
class TouchedTensors {
 public:
  void add(std::span<const Tensor* const> inputs);
  // Each once, in the order of first use.
  const std::vector<Tensor>& tensors() const { return tensors_; }

 private:
  std::vector<Tensor> tensors_;
};

namespace internal {

using CheckpointFunction = std::function<std::vector<Tensor>(std::span<const Tensor>)>;
std::vector<Tensor> checkpoint(const CheckpointFunction& f, std::vector<Tensor> inputs);

inline std::vector<Tensor> listed(Tensor result) { return {std::move(result)}; }
inline std::vector<Tensor> listed(std::vector<Tensor> results) { return results; }

// A function of many tensors as one of a span: copied, or referred to where it cannot be copied.
template <class F, size_t... I>
CheckpointFunction spread(F&& f, std::index_sequence<I...>) {
  using Callable = std::remove_cvref_t<F>;
  const auto make = [](auto pointer) -> CheckpointFunction {
    return [pointer](std::span<const Tensor> inputs) { return listed((*pointer)(inputs[I]...)); };
  };
  if constexpr (std::is_lvalue_reference_v<F> && !std::is_copy_constructible_v<Callable>) {
    return make(&f);
  } else {
    return make(std::make_shared<Callable>(std::forward<F>(f)));
  }
}

}  // namespace internal

// f(inputs…) without keeping what its ops save: the backward pass runs f once more and
// differentiates that (activation recomputation, Chen et al. 2016). `f` takes tensors and returns a
// Tensor or a std::vector<Tensor>; it is a lambda, which is copied, or a module, which must live
// until the backward pass. Tensors that f captures (parameters) get their gradients too, complete
// and once, also where f returns them unread; what f reads under NoGrad gets none. f must compute
// the same the second time: random numbers and autocast are as they were, side effects happen twice
// (context().recomputing tells the second time), `a += b` makes a new tensor both times. Nothing in
// f may ask for gradients itself. Checkpoints nest, and can be differentiated again (create_graph).
template <class F, class... Inputs>
auto checkpoint(F&& f, const Inputs&... inputs) {
  static_assert(sizeof...(Inputs) > 0, "checkpoint(f, inputs…) needs the tensors that f is given");
  using Result = std::remove_cvref_t<decltype(f(static_cast<const Tensor&>(inputs)...))>;
  auto results = internal::checkpoint(
      internal::spread(std::forward<F>(f), std::index_sequence_for<Inputs...>()), {inputs...});
  if constexpr (std::is_convertible_v<Result, Tensor>) {
    return Tensor(std::move(results[0]));
  } else {
    return results;
  }
}

}  // namespace lockstep
