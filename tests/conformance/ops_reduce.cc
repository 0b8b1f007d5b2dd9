#include "conformance/table.h"
#include "lockstep/autograd/ops.h"

namespace lockstep::conformance {
namespace {

// f(input, dims, keepdim); null is all dimensions.
template <class F>
Op over_dims(F f) {
  return on_input([f](const Tensor& x, const Arguments& a) {
    return f(x, a.dims("dim"), a.boolean("keepdim"));
  });
}

// f(input, dims, correction, keepdim)
template <class F>
Op with_correction(F f) {
  return on_input([f](const Tensor& x, const Arguments& a) {
    return f(x, a.dims("dim"), a.number("correction"), a.boolean("keepdim"));
  });
}

// all(input), or along(input, dim, keepdim) -> values, indices.
template <class All, class Along>
Op all_or_along(All all, Along along) {
  return [all, along](const Arguments& a) -> std::vector<Tensor> {
    const Tensor x = a.tensor("input");
    const bool keepdim = a.boolean("keepdim");
    if (a.is_null("dim")) return {all(x)};
    const ValuesIndices result = along(x, a.dim("dim"), keepdim);
    return {result.values, result.indices};
  };
}

}  // namespace

void add_reduce(OpTable& table) {
  table["sum"] = over_dims([](const auto&... x) { return sum(x...); });
  table["mean"] = over_dims([](const auto&... x) { return mean(x...); });
  table["amax"] = over_dims([](const auto&... x) { return amax(x...); });
  table["amin"] = over_dims([](const auto&... x) { return amin(x...); });
  table["all"] = over_dims([](const auto&... x) { return all(x...); });
  table["any"] = over_dims([](const auto&... x) { return any(x...); });
  table["logsumexp"] = over_dims([](const auto&... x) { return logsumexp(x...); });
  table["var"] = with_correction([](const auto&... x) { return var(x...); });
  table["std"] = with_correction([](const auto&... x) { return stddev(x...); });
  table["norm"] = on_input([](const Tensor& x, const Arguments& a) {
    return norm(x, a.number("p"), a.dims("dim"), a.boolean("keepdim"));
  });
  table["prod"] = on_input([](const Tensor& x, const Arguments& a) {
    const bool keepdim = a.boolean("keepdim");
    return a.is_null("dim") ? prod(x) : prod(x, a.dim("dim"), keepdim);
  });
  table["max"] = all_or_along([](const auto&... x) { return max(x...); },
                              [](const auto&... x) { return max(x...); });
  table["min"] = all_or_along([](const auto&... x) { return min(x...); },
                              [](const auto&... x) { return min(x...); });
  table["argmax"] = on_input([](const Tensor& x, const Arguments& a) {
    return argmax(x, a.optional_dim("dim"), a.boolean("keepdim"));
  });
  table["argmin"] = on_input([](const Tensor& x, const Arguments& a) {
    return argmin(x, a.optional_dim("dim"), a.boolean("keepdim"));
  });
  table["cumsum"] =
      on_input([](const Tensor& x, const Arguments& a) { return cumsum(x, a.dim("dim")); });
  table["cumprod"] =
      on_input([](const Tensor& x, const Arguments& a) { return cumprod(x, a.dim("dim")); });
}

}  // namespace lockstep::conformance
