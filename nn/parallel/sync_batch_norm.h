#pragma once

#include "lockstep/collectives/communicator.h"
#include "lockstep/nn/module.h"

namespace lockstep::nn {

// From now on every BatchNorm in `module` normalizes in training with the mean and variance of all
// ranks' samples, and its running statistics follow those: what torch.nn.SyncBatchNorm does. The
// ranks' batches may differ in size and be empty. Evaluation does not communicate. `communicator`
// must outlive the module's use; the call itself is not collective.
//
// Gradients, of any order, are exact: those of the sum of the ranks' losses, of which
// DistributedDataParallel makes the mean. Ranks with different numbers of samples therefore weigh
// their losses (the sum over their samples · ranks / all samples); set_weight comes too late, when
// backward has mixed the ranks' gradients.
//
// Each layer makes one collective a forward pass (the statistics) and one a backward pass (the sums
// of gradients, where its input needs one). `communicator` is the one that data parallelism uses:
// collectives of all kinds have one order, which is the same on all ranks while they run the same
// layers and use the same parameters in a step and in the one before it. A rank without samples
// runs an empty batch. Ranks that do differ get an error that names both collectives; with a
// communicator of its own (a split) they would wait for each other until the deadline, because MPI
// makes one call at a time.
void synchronize_batch_norm(Module& module, Communicator& communicator);

// Whether a BatchNorm in `module` does: all ranks run as many forward passes.
bool synchronizes_batch_norm(Module& module);

}  // namespace lockstep::nn
