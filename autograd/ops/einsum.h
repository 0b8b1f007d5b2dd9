#pragma once

#include <string_view>
#include <vector>

#include "lockstep/autograd/tensor.h"

namespace lockstep {

// Einstein's summation, as in torch.einsum: "ij,jk->ik". Labels are letters; one that an operand
// repeats takes its diagonal; those missing from the output are summed. `...` stands for dimensions
// that broadcast. Without "->" the output has, after `...`, the labels that appear once, in
// alphabetical order (capitals first). Operands are contracted from left to right by bmm.
Tensor einsum(std::string_view equation, const std::vector<Tensor>& operands);

}  // namespace lockstep
