#include "benchmark/data_parallel/gpt_training.h"

#include <algorithm>
#include <fstream>
#include <iterator>

#include "lockstep/runtime/context.h"
#include "lockstep/runtime/random/philox.h"

namespace lockstep::benchmark {

void GptOptions::add_to(flags::Command& command) {
  command.group("Model");
  command.add({.name = "--layers", .help = "blocks", .value = "N", .minimum = 1}, model.layers);
  command.add({.name = "--heads", .help = "of attention", .value = "N", .minimum = 1}, model.heads);
  command.add({.name = "--width", .help = "channels", .value = "N", .minimum = 1}, model.width);
  command.add({.name = "--context", .help = "tokens of a sample", .value = "N", .minimum = 1},
              model.context);
  command.add(
      {.name = "--batch", .help = "samples of a step on one rank", .value = "N", .minimum = 1},
      batch);
  command.add({.name = "--threads", .help = "of one rank", .value = "N", .minimum = 1}, threads);
  command.add({.name = "--precision", .help = "arithmetic", .choices = {"f32", "bf16"}}, precision);
  command.add({.name = "--text", .help = "to train on (default: noise)", .value = "FILE"}, text);
}

GptTraining::GptTraining(const GptOptions& options, Communicator& communicator,
                         nn::DataParallelOptions data_parallel)
    : options_(options), communicator_(communicator), model_(options.model) {
  context().threads = static_cast<int>(options_.threads);
  if (!options_.text.empty()) {
    std::ifstream file(options_.text, std::ios::binary);
    text_.assign(std::istreambuf_iterator<char>(file), {});
    LOCKSTEP_CHECK(static_cast<int64_t>(text_.size()) > 2 * options_.model.context, "--text ",
                   options_.text, " is missing or too short");
  }
  data_parallel.placement.seed = 1;
  if (options_.precision == "bf16") data_parallel.copies = &copies_.emplace(DType::bf16);
  ddp_.emplace(model_, communicator_, std::move(data_parallel));
  optimizer_.emplace(optim::decay_matrices_only(model_.parameters(), 0.1),
                     optim::AdamW::Options{.learning_rate = 1e-3});
  if (copies_) optimizer_->set_copies(&*copies_);
}

// [batch, context], each sample at a place that step, rank and number give.
Tensor GptTraining::tokens(int64_t shift) const {
  const int64_t context = options_.model.context;
  std::vector<int64_t> ids;
  for (int64_t sample = 0; sample < options_.batch; ++sample) {
    const auto number = static_cast<uint32_t>(communicator_.rank() * options_.batch + sample);
    const auto random = philox::block({{static_cast<uint32_t>(steps_), number, 0, 0}}, 7);
    if (text_.empty()) {
      for (int64_t i = shift; i < context + shift; ++i) {
        ids.push_back((random.words[0] / 7 + i * i * 31) % options_.model.vocabulary);
      }
      continue;
    }
    const int64_t first =
        random.words[0] % (static_cast<int64_t>(text_.size()) - context - 1) + shift;
    for (int64_t i = first; i < first + context; ++i) {
      ids.push_back(static_cast<unsigned char>(text_[static_cast<size_t>(i)]));
    }
  }
  return Tensor(Array::from(ids, {options_.batch, context}));
}

double GptTraining::step(const std::function<void()>& before_finish) {
  optimizer_->zero_grad();
  Tensor loss;
  {
    std::optional<Autocast> autocast;
    if (copies_) autocast.emplace(*copies_);
    loss = cross_entropy(flatten(model_(tokens(0)), 0, 1), flatten(tokens(1)));
  }
  const double mine = loss.item();
  loss.backward();
  if (before_finish) before_finish();
  const auto samples = static_cast<double>(options_.batch);
  const nn::StepReport total = ddp_->finish({.loss_sum = mine * samples, .samples = samples});
  optimizer_->step(optim::clip_factor(optim::gradient_norm(optimizer_->parameters()), 1.0));
  ++steps_;
  return total.loss_sum / total.samples;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace lockstep::benchmark
