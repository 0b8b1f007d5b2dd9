#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lockstep/launcher/train/options.h"
#include "lockstep/nn/optim/optimizer.h"

namespace lockstep::train {

// What --optimizer may be: the rules that update any parameter from its gradient alone. (Muon takes
// matrices only, L-BFGS evaluates the loss many times a step.)
std::vector<std::string> optimizer_names();

// The rule that `options` name, with their constants wherever it has such a one: beta2 is RMSprop's
// alpha and Adadelta's rho, too. Only tensors of two or more dimensions decay. Throws UsageError
// for another name.
std::unique_ptr<optim::Optimizer> make_optimizer(const TrainOptions& options,
                                                 const std::vector<nn::Parameter>& parameters);

}  // namespace lockstep::train
