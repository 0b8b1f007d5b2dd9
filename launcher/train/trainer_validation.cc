// What a Trainer does with the held-out samples.
#include "lockstep/launcher/train/agreement.h"
#include "lockstep/launcher/train/trainer.h"

namespace lockstep::train {

void Trainer::validate() {
  const Phase phase = long_phase("validation");
  const int64_t samples = task_.validation_samples();
  const int ranks = communicator_.size(), rank = communicator_.rank();
  const int64_t first = samples * rank / ranks, end = samples * (rank + 1) / ranks;
  const int64_t most = plan_->micro_batch();
  const Array sums = Array::zeros({2}, DType::f64);
  const bool sharded = options_.shard_level() == nn::ShardLevel::parameters;
  const auto rounds_of = [&](int64_t count) { return (count + most - 1) / most; };
  const auto validate_own = [&] {
    const NoGrad no_grad;
    task_.module().train(false);
    for (int64_t at = first; at < end; at += most) {
      const int64_t count = std::min(most, end - at);
      task_.load_validation(at, count);
      sums.data<double>()[0] += loss().item() * static_cast<double>(count);
    }
    // Where parameters are gathered all ranks compute equally often.
    const int64_t rounds = rounds_of(sharded ? (samples + ranks - 1) / ranks : end - first);
    for (int64_t i = rounds_of(end - first); i < rounds; ++i) {
      task_.load_validation(end, 0);
      loss();
    }
    task_.module().train(true);
    sums.data<double>()[1] = static_cast<double>(end - first);
  };
  if (sharded) {
    try {
      validate_own();
    } catch (const CollectiveError&) {
      throw;
    } catch (const std::exception& failure) {
      break_off(concat({communicator_.activity().now().describe(), ": ", failure.what()}));
    }
  } else {
    agree(communicator_, "validation", validate_own);
  }
  communicator_.all_reduce(sums, ReduceOp::sum, {.what = "validation"}).wait();
  const double mean = sums.data<double>()[0] / sums.data<double>()[1];
  write_metrics([&] { metrics_->event("validation", {{"step", step_}, {"loss", mean}}); });
  progress_->note(concat({"step ", step_, ": validation loss ", mean}));
}

}  // namespace lockstep::train
