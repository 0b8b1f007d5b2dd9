#include "conformance/table.h"
#include "lockstep/autograd/ops.h"
#include "lockstep/autograd/ops/attention.h"

namespace lockstep::conformance {
namespace {

Shape normalized_shape(const Arguments& a) {
  return Shape(std::span<const int64_t>(a.integers("normalized_shape")));
}

// Where it was given.
Array state(const Arguments& a, const char* name) { return a.optional_tensor(name).value(); }

Tensor call_batch_norm(const Tensor& x, const Arguments& a) {
  return batch_norm(x, state(a, "running_mean"), state(a, "running_var"),
                    a.optional_tensor("weight"), a.optional_tensor("bias"),
                    {.training = a.boolean("training"),
                     .momentum = a.number("momentum"),
                     .epsilon = a.number("eps")});
}

std::vector<Tensor> call_attention(const Arguments& a) {
  return {scaled_dot_product_attention(a.tensor("query"), a.tensor("key"), a.tensor("value"),
                                       {.mask = a.optional_tensor("attn_mask"),
                                        .dropout = a.number("dropout_p"),
                                        .causal = a.boolean("is_causal"),
                                        .scale = a.optional_number("scale"),
                                        .enable_gqa = a.boolean("enable_gqa")})};
}

}  // namespace

void add_normalization(OpTable& table) {
  table["softmax"] =
      on_input([](const Tensor& x, const Arguments& a) { return softmax(x, a.dim("dim")); });
  table["log_softmax"] =
      on_input([](const Tensor& x, const Arguments& a) { return log_softmax(x, a.dim("dim")); });
  table["layer_norm"] = on_input([](const Tensor& x, const Arguments& a) {
    return layer_norm(x, normalized_shape(a), a.optional_tensor("weight"),
                      a.optional_tensor("bias"), a.number("eps"));
  });
  table["rms_norm"] = on_input([](const Tensor& x, const Arguments& a) {
    return rms_norm(x, normalized_shape(a), a.optional_tensor("weight"), a.optional_number("eps"));
  });
  table["group_norm"] = on_input([](const Tensor& x, const Arguments& a) {
    return group_norm(x, a.integer("num_groups"), a.optional_tensor("weight"),
                      a.optional_tensor("bias"), a.number("eps"));
  });
  table["instance_norm"] = on_input([](const Tensor& x, const Arguments& a) {
    return instance_norm(x, a.optional_tensor("weight"), a.optional_tensor("bias"),
                         a.number("eps"));
  });
  table["batch_norm"] = on_input(call_batch_norm);
  table["scaled_dot_product_attention"] = call_attention;
}

}  // namespace lockstep::conformance
