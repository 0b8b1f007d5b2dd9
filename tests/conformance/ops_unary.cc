#include "conformance/table.h"
#include "lockstep/autograd/ops.h"

namespace lockstep::conformance {
namespace {

GeluForm gelu_form(const Arguments& a) {
  const std::string form = a.string("approximate");
  LOCKSTEP_CHECK(form == "none" || form == "tanh", "'approximate' is '", form, "'");
  return form == "none" ? GeluForm::erf : GeluForm::tanh;
}

DType dtype_named(const std::string& name) {
  const std::map<std::string, DType> dtypes = {{"float64", DType::f64},   {"float32", DType::f32},
                                               {"bfloat16", DType::bf16}, {"float16", DType::f16},
                                               {"int64", DType::i64},     {"int32", DType::i32},
                                               {"uint8", DType::u8},      {"bool", DType::boolean}};
  const auto found = dtypes.find(name);
  LOCKSTEP_CHECK(found != dtypes.end(), "the dtype '", name, "' is unknown");
  return found->second;
}

void add_plain(OpTable& table) {
  table["abs"] = on_input([](const Tensor& x) { return abs(x); });
  table["neg"] = on_input([](const Tensor& x) { return neg(x); });
  table["sign"] = on_input([](const Tensor& x) { return sign(x); });
  table["exp"] = on_input([](const Tensor& x) { return exp(x); });
  table["expm1"] = on_input([](const Tensor& x) { return expm1(x); });
  table["log"] = on_input([](const Tensor& x) { return log(x); });
  table["log1p"] = on_input([](const Tensor& x) { return log1p(x); });
  table["log2"] = on_input([](const Tensor& x) { return log2(x); });
  table["sqrt"] = on_input([](const Tensor& x) { return sqrt(x); });
  table["rsqrt"] = on_input([](const Tensor& x) { return rsqrt(x); });
  table["reciprocal"] = on_input([](const Tensor& x) { return reciprocal(x); });
  table["square"] = on_input([](const Tensor& x) { return square(x); });
  table["sin"] = on_input([](const Tensor& x) { return sin(x); });
  table["cos"] = on_input([](const Tensor& x) { return cos(x); });
  table["tan"] = on_input([](const Tensor& x) { return tan(x); });
  table["asin"] = on_input([](const Tensor& x) { return asin(x); });
  table["acos"] = on_input([](const Tensor& x) { return acos(x); });
  table["atan"] = on_input([](const Tensor& x) { return atan(x); });
  table["sinh"] = on_input([](const Tensor& x) { return sinh(x); });
  table["cosh"] = on_input([](const Tensor& x) { return cosh(x); });
  table["tanh"] = on_input([](const Tensor& x) { return tanh(x); });
  table["erf"] = on_input([](const Tensor& x) { return erf(x); });
  table["erfc"] = on_input([](const Tensor& x) { return erfc(x); });
  table["floor"] = on_input([](const Tensor& x) { return floor(x); });
  table["ceil"] = on_input([](const Tensor& x) { return ceil(x); });
  table["round"] = on_input([](const Tensor& x) { return round(x); });
  table["trunc"] = on_input([](const Tensor& x) { return trunc(x); });
  table["logical_not"] = on_input([](const Tensor& x) { return logical_not(x); });
}

void add_activations(OpTable& table) {
  table["sigmoid"] = on_input([](const Tensor& x) { return sigmoid(x); });
  table["logsigmoid"] = on_input([](const Tensor& x) { return logsigmoid(x); });
  table["relu"] = on_input([](const Tensor& x) { return relu(x); });
  table["selu"] = on_input([](const Tensor& x) { return selu(x); });
  table["silu"] = on_input([](const Tensor& x) { return silu(x); });
  table["mish"] = on_input([](const Tensor& x) { return mish(x); });
  table["hardswish"] = on_input([](const Tensor& x) { return hardswish(x); });
  table["hardsigmoid"] = on_input([](const Tensor& x) { return hardsigmoid(x); });
  table["softsign"] = on_input([](const Tensor& x) { return softsign(x); });
  table["leaky_relu"] = on_input([](const Tensor& x, const Arguments& a) {
    return leaky_relu(x, a.number("negative_slope"));
  });
  table["elu"] =
      on_input([](const Tensor& x, const Arguments& a) { return elu(x, a.number("alpha")); });
  table["celu"] =
      on_input([](const Tensor& x, const Arguments& a) { return celu(x, a.number("alpha")); });
  table["gelu"] =
      on_input([](const Tensor& x, const Arguments& a) { return gelu(x, gelu_form(a)); });
  table["hardtanh"] = on_input([](const Tensor& x, const Arguments& a) {
    return hardtanh(x, a.number("min_val"), a.number("max_val"));
  });
  table["softplus"] = on_input([](const Tensor& x, const Arguments& a) {
    return softplus(x, a.number("beta"), a.number("threshold"));
  });
}

}  // namespace

void add_unary(OpTable& table) {
  add_plain(table);
  add_activations(table);
  table["dropout"] = on_input([](const Tensor& x, const Arguments& a) {
    return dropout(x, a.number("p"), a.boolean("training"));
  });
  table["to"] = on_input(
      [](const Tensor& x, const Arguments& a) { return to(x, dtype_named(a.string("dtype"))); });
}

}  // namespace lockstep::conformance
