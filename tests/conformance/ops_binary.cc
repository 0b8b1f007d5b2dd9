#include "conformance/table.h"
#include "lockstep/autograd/ops.h"

namespace lockstep::conformance {
namespace {

// input and other; either may be a number where f(x, y) has such a form.
template <class F>
Op with_other(F f) {
  return [f](const Arguments& a) -> std::vector<Tensor> {
    if (a.has_tensor("other")) return {f(a.tensor("input"), a.tensor("other"))};
    return {f(a.tensor("input"), a.scalar("other"))};
  };
}

template <class F>
Op two_tensors(F f) {
  return [f](const Arguments& a) -> std::vector<Tensor> {
    return {f(a.tensor("input"), a.tensor("other"))};
  };
}

// f(x, y) where alpha is 1, else f(x, y, alpha).
template <class F>
Op with_alpha(F f) {
  return [f](const Arguments& a) -> std::vector<Tensor> {
    const Tensor x = a.tensor("input");
    const bool plain = a.attribute("alpha") == Json(1);
    if (a.has_tensor("other")) {
      const Tensor y = a.tensor("other");
      return {plain ? f(x, y) : f(x, y, a.scalar("alpha"))};
    }
    const Scalar y = a.scalar("other");
    return {plain ? f(x, y) : f(x, Tensor(y), a.scalar("alpha"))};
  };
}

std::vector<Tensor> call_div(const Arguments& a) {
  const Tensor x = a.tensor("input");
  Rounding rounding = Rounding::none;
  if (!a.is_null("rounding_mode")) {
    const std::string mode = a.string("rounding_mode");
    LOCKSTEP_CHECK(mode == "floor" || mode == "trunc", "'rounding_mode' is '", mode, "'");
    rounding = mode == "floor" ? Rounding::floor : Rounding::trunc;
  }
  if (a.has_tensor("other")) {
    const Tensor y = a.tensor("other");
    return {rounding == Rounding::none ? div(x, y) : div(x, y, rounding)};
  }
  const Scalar y = a.scalar("other");
  return {rounding == Rounding::none ? div(x, y) : div(x, y, rounding)};
}

std::vector<Tensor> call_pow(const Arguments& a) {
  if (!a.has_tensor("input")) return {pow(a.scalar("input"), a.tensor("exponent"))};
  if (!a.has_tensor("exponent")) return {pow(a.tensor("input"), a.scalar("exponent"))};
  return {pow(a.tensor("input"), a.tensor("exponent"))};
}

std::vector<Tensor> call_clamp(const Arguments& a) {
  const Tensor x = a.tensor("input");
  if (!a.has_tensor("min") && !a.has_tensor("max")) {
    return {clamp(x, a.optional_scalar("min"), a.optional_scalar("max"))};
  }
  for (const char* bound : {"min", "max"}) {
    LOCKSTEP_CHECK(a.has_tensor(bound) || !a.optional_scalar(bound),
                   "clamp takes two tensors or two numbers");
  }
  return {clamp(x, a.optional_tensor("min"), a.optional_tensor("max"))};
}

std::vector<Tensor> call_lerp(const Arguments& a) {
  const Tensor x = a.tensor("input"), end = a.tensor("end");
  if (a.has_tensor("weight")) return {lerp(x, end, a.tensor("weight"))};
  return {lerp(x, end, a.scalar("weight"))};
}

std::vector<Tensor> call_where(const Arguments& a) {
  const Tensor condition = a.tensor("condition");
  if (!a.has_tensor("input")) {
    if (!a.has_tensor("other")) {
      return {where(condition, a.scalar("input"), a.scalar("other"))};
    }
    return {where(condition, a.scalar("input"), a.tensor("other"))};
  }
  if (!a.has_tensor("other")) return {where(condition, a.tensor("input"), a.scalar("other"))};
  return {where(condition, a.tensor("input"), a.tensor("other"))};
}

}  // namespace

void add_binary(OpTable& table) {
  table["add"] = with_alpha([](const auto&... operands) { return add(operands...); });
  table["sub"] = with_alpha([](const auto&... operands) { return sub(operands...); });
  table["mul"] = with_other([](const auto& x, const auto& y) { return mul(x, y); });
  table["div"] = call_div;
  table["pow"] = call_pow;
  table["fmod"] = with_other([](const auto& x, const auto& y) { return fmod(x, y); });
  table["remainder"] = with_other([](const auto& x, const auto& y) { return remainder(x, y); });
  table["maximum"] = two_tensors([](const auto& x, const auto& y) { return maximum(x, y); });
  table["minimum"] = two_tensors([](const auto& x, const auto& y) { return minimum(x, y); });
  table["atan2"] = two_tensors([](const auto& x, const auto& y) { return atan2(x, y); });
  table["eq"] = with_other([](const auto& x, const auto& y) { return eq(x, y); });
  table["ne"] = with_other([](const auto& x, const auto& y) { return ne(x, y); });
  table["lt"] = with_other([](const auto& x, const auto& y) { return lt(x, y); });
  table["le"] = with_other([](const auto& x, const auto& y) { return le(x, y); });
  table["gt"] = with_other([](const auto& x, const auto& y) { return gt(x, y); });
  table["ge"] = with_other([](const auto& x, const auto& y) { return ge(x, y); });
  table["logical_and"] =
      two_tensors([](const auto& x, const auto& y) { return logical_and(x, y); });
  table["logical_or"] = two_tensors([](const auto& x, const auto& y) { return logical_or(x, y); });
  table["clamp"] = call_clamp;
  table["lerp"] = call_lerp;
  table["addcmul"] = [](const Arguments& a) -> std::vector<Tensor> {
    return {
        addcmul(a.tensor("input"), a.tensor("tensor1"), a.tensor("tensor2"), a.scalar("value"))};
  };
  table["where"] = call_where;
}

}  // namespace lockstep::conformance
