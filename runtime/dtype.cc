#include "lockstep/runtime/dtype.h"

namespace lockstep {

std::string_view name_of(DType dtype) {
  constexpr std::string_view kNames[] = {"f64", "f32", "bf16", "f16", "i64", "i32", "u8", "bool"};
  return kNames[static_cast<size_t>(dtype)];
}

}  // namespace lockstep
