#include "conformance/table.h"
#include "lockstep/autograd/ops.h"

namespace lockstep::conformance {

void add_linear_algebra(OpTable& table) {
  table["matmul"] =
      on_input([](const Tensor& x, const Arguments& a) { return matmul(x, a.tensor("other")); });
  table["bmm"] =
      on_input([](const Tensor& x, const Arguments& a) { return bmm(x, a.tensor("mat2")); });
  table["addmm"] = on_input([](const Tensor& x, const Arguments& a) {
    return addmm(x, a.tensor("mat1"), a.tensor("mat2"), a.number("beta"), a.number("alpha"));
  });
  table["linear"] = on_input([](const Tensor& x, const Arguments& a) {
    return linear(x, a.tensor("weight"), a.optional_tensor("bias"));
  });
  table["outer"] =
      on_input([](const Tensor& x, const Arguments& a) { return outer(x, a.tensor("vec2")); });
  table["dot"] =
      on_input([](const Tensor& x, const Arguments& a) { return dot(x, a.tensor("tensor")); });
  table["einsum"] = [](const Arguments& a) -> std::vector<Tensor> {
    return {einsum(a.string("equation"), a.tensors("operands"))};
  };
}

}  // namespace lockstep::conformance
