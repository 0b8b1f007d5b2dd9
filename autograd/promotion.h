#pragma once

#include <initializer_list>

#include "lockstep/autograd/tensor.h"

namespace lockstep {

// The smaller dtype that holds both, by PyTorch's rules: bool < u8 < i32 < i64 < floating; bf16 and
// f16 meet in f32.
DType promote_types(DType a, DType b);

// The dtype in which an op on these operands computes, by PyTorch's rules. Operands are of three
// categories: tensors with dimensions, rank-0 tensors and numbers (weak scalars). A lower category
// only raises the dtype where it is of a higher kind (bool < integer < floating): i64 [3] * 2 is
// i64, i64 [3] * 2.5 is f32 (the default), bf16 [3] * f64 [] is bf16.
DType result_type(std::initializer_list<const Tensor*> operands);

}  // namespace lockstep
