#pragma once

// Everything that updates parameters: optimizers, schedules, clipping, averages.
#include "lockstep/nn/optim/adam.h"
#include "lockstep/nn/optim/adaptive.h"
#include "lockstep/nn/optim/average.h"
#include "lockstep/nn/optim/clip.h"
#include "lockstep/nn/optim/grad_scaler.h"
#include "lockstep/nn/optim/lamb.h"
#include "lockstep/nn/optim/lbfgs.h"
#include "lockstep/nn/optim/lion.h"
#include "lockstep/nn/optim/muon.h"
#include "lockstep/nn/optim/schedule.h"
#include "lockstep/nn/optim/scheduler.h"
#include "lockstep/nn/optim/sgd.h"
