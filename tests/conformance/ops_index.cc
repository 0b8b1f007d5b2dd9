#include "conformance/table.h"
#include "lockstep/autograd/ops.h"

namespace lockstep::conformance {

void add_index(OpTable& table) {
  table["index_select"] = on_input([](const Tensor& x, const Arguments& a) {
    return index_select(x, a.dim("dim"), a.tensor("index"));
  });
  table["gather"] = on_input([](const Tensor& x, const Arguments& a) {
    return gather(x, a.dim("dim"), a.tensor("index"));
  });
  table["scatter_add"] = on_input([](const Tensor& x, const Arguments& a) {
    return scatter_add(x, a.dim("dim"), a.tensor("index"), a.tensor("src"));
  });
  table["masked_fill"] = on_input([](const Tensor& x, const Arguments& a) {
    return masked_fill(x, a.tensor("mask"), a.scalar("value"));
  });
  table["masked_select"] = on_input(
      [](const Tensor& x, const Arguments& a) { return masked_select(x, a.tensor("mask")); });
  table["embedding"] = on_input([](const Tensor& x, const Arguments& a) {
    return embedding(x, a.tensor("weight"), a.optional_integer("padding_idx"));
  });
  table["one_hot"] = on_input(
      [](const Tensor& x, const Arguments& a) { return one_hot(x, a.integer("num_classes")); });
  table["topk"] = [](const Arguments& a) -> std::vector<Tensor> {
    const auto [values, indices] = topk(a.tensor("input"), a.integer("k"), a.dim("dim"),
                                        a.boolean("largest"), a.boolean("sorted"));
    return {values, indices};
  };
  table["sort"] = [](const Arguments& a) -> std::vector<Tensor> {
    const auto [values, indices] =
        sort(a.tensor("input"), a.dim("dim"), a.boolean("descending"), a.boolean("stable"));
    return {values, indices};
  };
}

}  // namespace lockstep::conformance
