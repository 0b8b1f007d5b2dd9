#pragma once

// The modules of torch.nn, by family, under its names for classes, arguments and state. Sizes come
// in torch's order; what has a default is in `Options`. With the ops, for what lies between.
#include "lockstep/autograd/ops.h"
#include "lockstep/nn/init.h"
#include "lockstep/nn/layers/activation.h"
#include "lockstep/nn/layers/attention.h"
#include "lockstep/nn/layers/basic.h"
#include "lockstep/nn/layers/batch_norm.h"
#include "lockstep/nn/layers/container.h"
#include "lockstep/nn/layers/convolution.h"
#include "lockstep/nn/layers/loss.h"
#include "lockstep/nn/layers/normalization.h"
#include "lockstep/nn/layers/pooling.h"
#include "lockstep/nn/layers/recurrent.h"
#include "lockstep/nn/layers/transformer.h"
