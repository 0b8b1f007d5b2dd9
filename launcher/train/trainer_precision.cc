// Training in 16 bits.
#include <cmath>

#include "lockstep/launcher/train/agreement.h"
#include "lockstep/launcher/train/trainer.h"
#include "lockstep/nn/optim.h"
#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/kernels.h"

namespace lockstep::train {
namespace {

// Gradients that are not finite at a loss scale below this are so at any.
constexpr double kSmallestLossScale = 1e-4;

}  // namespace

// Where a precision saves memory and traffic but no time, the user should know.
void Trainer::note_precision() {
  if (!copies_ || step_ >= steps_) return;
  const DType dtype = copies_->dtype();
  // Machines may differ: rank 0 speaks of its own.
  std::string note;
  if (communicator_.rank() == 0 && !backend().kernels().multiplies_in(dtype)) {
    note = concat({options_.precision, " products are computed in f32 on this machine"});
  }
  agree(communicator_, "run directory", [&] {
    if (!note.empty()) directory_.log(note);
  });
  if (!note.empty()) progress_->note(note);
}

Tensor Trainer::loss() {
  if (!copies_) return task_.loss();
  const Autocast autocast(*copies_);
  const Tensor loss = task_.loss();
  // A scale is often more than a loss in 16 bits can hold.
  return size_of(loss.dtype()) == 2 ? loss.to(DType::f32) : loss;
}

// All ranks have the same gradients, so they decide alike.
double Trainer::update(StepTimes& times) {
  const double norm = optim::gradient_norm(optimizer_->parameters());
  // The device has come this far, and is still to do the rest of this phase.
  device_times_.collect(times, timeline_ ? &*timeline_ : nullptr);
  if (!scaler_) {
    if (std::isfinite(norm)) optimizer_->step(optim::clip_factor(norm, options_.gradient_clip));
    return norm;
  }
  const double unscaled = norm / scaler_->scale();
  scaler_->step(*optimizer_, norm, optim::clip_factor(unscaled, options_.gradient_clip));
  scaler_->update();
  return unscaled;
}

void Trainer::report_overflow(double loss) {
  if (scaler_) {
    const double scale = scaler_->scale();
    write_metrics([&] {
      metrics_->event("step_skipped", {{"step", step_}, {"next_loss_scale", scale}});
    });
    if (scale >= kSmallestLossScale) return;
  }
  const std::string at = scaler_ ? "at any loss scale " : "";
  throw AgreedFailure(concat({"step ", step_, ": the norm of the gradients is not finite ", at,
                              "(loss ", loss, "); the parameters are those of step ", step_ - 1}),
                      1);
}

}  // namespace lockstep::train
