#include "conformance/table.h"
#include "lockstep/autograd/ops.h"

namespace lockstep::conformance {
namespace {

Shape shape_of(const std::vector<int64_t>& dims) { return Shape(std::span<const int64_t>(dims)); }

std::vector<Tensor> call_pad(const Arguments& a) {
  const std::string mode = a.string("mode");
  LOCKSTEP_CHECK(mode == "constant" || mode == "reflect", "'mode' is '", mode, "'");
  // Null: PyTorch's default, 0.
  const double value = a.is_null("value") ? 0 : a.number("value");
  return {pad(a.tensor("input"), a.integers("pad"),
              mode == "constant" ? PadMode::constant : PadMode::reflect, value)};
}

std::vector<Tensor> call_split(const Arguments& a) {
  const Tensor x = a.tensor("tensor");
  const int dim = a.dim("dim");
  if (a.is_list("split_size_or_sections")) {
    return split(x, a.integers("split_size_or_sections"), dim);
  }
  return split(x, a.integer("split_size_or_sections"), dim);
}

Tensor call_repeat_interleave(const Tensor& x, const Arguments& a) {
  const std::optional<int> dim = a.optional_dim("dim");
  if (a.has_tensor("repeats")) return repeat_interleave(x, a.tensor("repeats"), dim);
  return repeat_interleave(x, a.integer("repeats"), dim);
}

}  // namespace

void add_shape(OpTable& table) {
  table["reshape"] = on_input([](const Tensor& x, const Arguments& a) {
    return reshape(x, shape_of(a.integers("shape")));
  });
  table["permute"] =
      on_input([](const Tensor& x, const Arguments& a) { return permute(x, a.dims("dims")); });
  table["transpose"] = on_input([](const Tensor& x, const Arguments& a) {
    return transpose(x, a.dim("dim0"), a.dim("dim1"));
  });
  table["squeeze"] = on_input([](const Tensor& x, const Arguments& a) {
    return a.is_null("dim") ? squeeze(x) : squeeze(x, a.dims("dim"));
  });
  table["unsqueeze"] =
      on_input([](const Tensor& x, const Arguments& a) { return unsqueeze(x, a.dim("dim")); });
  table["expand"] = on_input(
      [](const Tensor& x, const Arguments& a) { return expand(x, shape_of(a.integers("size"))); });
  table["narrow"] = on_input([](const Tensor& x, const Arguments& a) {
    return narrow(x, a.dim("dim"), a.integer("start"), a.integer("length"));
  });
  table["flip"] =
      on_input([](const Tensor& x, const Arguments& a) { return flip(x, a.dims("dims")); });
  table["roll"] = on_input([](const Tensor& x, const Arguments& a) {
    return roll(x, a.integers("shifts"), a.dims("dims"));
  });
  table["tril"] =
      on_input([](const Tensor& x, const Arguments& a) { return tril(x, a.integer("diagonal")); });
  table["triu"] =
      on_input([](const Tensor& x, const Arguments& a) { return triu(x, a.integer("diagonal")); });
  table["repeat"] = on_input(
      [](const Tensor& x, const Arguments& a) { return repeat(x, a.integers("repeats")); });
  table["repeat_interleave"] = on_input(call_repeat_interleave);
  table["cat"] = [](const Arguments& a) -> std::vector<Tensor> {
    return {cat(a.tensors("tensors"), a.dim("dim"))};
  };
  table["stack"] = [](const Arguments& a) -> std::vector<Tensor> {
    return {stack(a.tensors("tensors"), a.dim("dim"))};
  };
  table["split"] = call_split;
  table["chunk"] = [](const Arguments& a) {
    return chunk(a.tensor("input"), a.integer("chunks"), a.dim("dim"));
  };
  table["pad"] = call_pad;
}

}  // namespace lockstep::conformance
