#pragma once

// The ops users call, under PyTorch's names, by family. All check shapes and dtypes and throw Error
// naming the op. Every one can be differentiated any number of times unless its comment says
// otherwise.
#include "lockstep/autograd/ops/attention.h"
#include "lockstep/autograd/ops/convolution.h"
#include "lockstep/autograd/ops/creation.h"
#include "lockstep/autograd/ops/dropout.h"
#include "lockstep/autograd/ops/einsum.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/index.h"
#include "lockstep/autograd/ops/linear_algebra.h"
#include "lockstep/autograd/ops/loss.h"
#include "lockstep/autograd/ops/normalization.h"
#include "lockstep/autograd/ops/pooling.h"
#include "lockstep/autograd/ops/recurrent.h"
#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/autograd/ops/shape.h"
#include "lockstep/autograd/print.h"
