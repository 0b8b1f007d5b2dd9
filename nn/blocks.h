#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "lockstep/nn/module.h"

namespace lockstep::nn {

// A block is an element of a list of modules, the outermost one where lists are nested: "h.3",
// "layer1.0". Elsewhere it is the module that a parameter belongs to: "wte".

// That of a parameter: "h.3" of "h.3.attn.c_attn.weight", "wte" of "wte.weight", "" of "weight".
std::string block_of(std::string_view parameter);

// The elements of lists of modules, in the order of the module.
std::vector<NamedModule> blocks_of(Module& module);

// Has those run again in the backward pass instead of keeping what they compute
// (Module::set_recompute). Returns how many there are.
int recompute_blocks(Module& module, bool on = true);

// Of those that are to run again the ones that no call has done so with yet: after a pass, what
// the model does not call as functions of tensors (Module::set_recompute).
std::vector<std::string> blocks_not_recomputed(Module& module);

}  // namespace lockstep::nn
