#pragma once

#include <optional>

#include "examples/04_gpt/model.h"
#include "lockstep/autograd/autocast.h"
#include "lockstep/launcher/flags/flags.h"
#include "lockstep/nn/optim.h"
#include "lockstep/nn/parallel/data_parallel.h"

// The GPT that the benchmarks of data parallelism train, on made-up or given text.
namespace lockstep::benchmark {

struct GptOptions {
  gpt::Config model{.layers = 6, .heads = 6, .width = 384, .context = 256, .vocabulary = 256};
  int64_t batch = 4;  // of one rank
  std::string text;   // file; empty: made up
  std::string precision = "f32";
  int64_t threads = 1;

  void add_to(flags::Command& command);
};

// One rank's part of the training: its own samples of each step, the same at any number of ranks.
class GptTraining {
 public:
  GptTraining(const GptOptions& options, Communicator& communicator,
              nn::DataParallelOptions data_parallel);

  // Forward, backward and the end of the step; returns the mean loss over all ranks.
  // `before_finish` runs between backward and finish().
  double step(const std::function<void()>& before_finish = {});

  nn::DistributedDataParallel& ddp() { return *ddp_; }

 private:
  Tensor tokens(int64_t shift) const;

  GptOptions options_;
  Communicator& communicator_;
  std::string text_;
  gpt::Model model_;
  std::optional<LowPrecisionCopies> copies_;
  std::optional<nn::DistributedDataParallel> ddp_;
  std::optional<optim::AdamW> optimizer_;
  int64_t steps_ = 0;
};

double median(std::vector<double> values);

}  // namespace lockstep::benchmark
