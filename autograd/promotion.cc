#include "lockstep/autograd/promotion.h"

#include <optional>

namespace lockstep {
namespace {

constexpr DType kDefault = DType::f32;

std::optional<DType> join(std::optional<DType> a, std::optional<DType> b) {
  if (!a || !b) return a ? a : b;
  return promote_types(*a, *b);
}

std::optional<DType> combine(std::optional<DType> higher, std::optional<DType> lower) {
  if (higher && is_floating(*higher)) return higher;
  if (higher == DType::boolean || (lower && is_floating(*lower))) return join(higher, lower);
  return higher ? higher : lower;
}

}  // namespace

DType promote_types(DType a, DType b) {
  if (a == b) return a;
  if (is_floating(a) != is_floating(b)) return is_floating(a) ? a : b;
  if (is_floating(a)) {
    const bool short_ones = size_of(a) == 2 && size_of(b) == 2;  // bf16 and f16
    return short_ones ? DType::f32 : size_of(a) > size_of(b) ? a : b;
  }
  if (a == DType::boolean || b == DType::boolean) return a == DType::boolean ? b : a;
  return size_of(a) > size_of(b) ? a : b;
}

DType result_type(std::initializer_list<const Tensor*> operands) {
  std::optional<DType> dimensioned, scalar, number;
  for (const Tensor* operand : operands) {
    DType dtype = operand->dtype();
    if (operand->is_weak_scalar()) {
      number = join(number, is_floating(dtype) ? kDefault : dtype);
    } else if (operand->rank() > 0) {
      dimensioned = join(dimensioned, dtype);
    } else {
      scalar = join(scalar, dtype);
    }
  }
  return combine(dimensioned, combine(scalar, number)).value_or(kDefault);
}

}  // namespace lockstep
