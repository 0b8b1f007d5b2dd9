// Trains a GPT on a text, continues one from a checkpoint or from Hugging Face weights, samples
// from it, and exports it. See the README beside this file.

#include <algorithm>
#include <cstdio>

#include "generate.h"
#include "hugging_face.h"
#include "lockstep/launcher/flags/flags.h"
#include "lockstep/launcher/train/agreement.h"
#include "lockstep/launcher/train/program.h"
#include "lockstep/launcher/train/signals.h"
#include "task.h"

namespace {

using namespace lockstep;

void add_flags(flags::Command& c, gpt::Options& options) {
  c.group("Data");
  c.add({.name = "--data", .help = "UTF-8 text, or tokens in a .bin file", .value = "FILE"},
        options.data);
  c.add({.name = "--tokenizer", .help = "how text becomes tokens", .value = "bytes|gpt2:DIR"},
        options.tokenizer);
  c.add({.name = "--order", .help = "order of the samples", .choices = {"shuffled", "sequential"}},
        options.order);
  c.add({.name = "--validation-fraction",
         .help = "end of the data that is held out",
         .value = "X",
         .minimum = 0,
         .maximum = 0.9},
        options.validation_fraction);
  c.group("Model");
  c.add({.name = "--layers", .help = "blocks (default: 4)", .value = "N", .minimum = 1},
        options.layers);
  c.add({.name = "--heads", .help = "attention heads (default: 4)", .value = "N", .minimum = 1},
        options.heads);
  c.add({.name = "--width", .help = "channels (default: 128)", .value = "N", .minimum = 1},
        options.width);
  c.add({.name = "--context",
         .help = "tokens of a sample (default: 128)",
         .value = "N",
         .minimum = 1},
        options.context);
  c.add({.name = "--vocabulary",
         .help = "tokens known (default: the tokenizer's)",
         .value = "N",
         .minimum = 1},
        options.vocabulary);
  c.add({.name = "--init-from", .help = "start from Hugging Face weights", .value = "DIR|FILE"},
        options.init_from);
  c.group("Afterwards");
  c.add({.name = "--export", .help = "write the model in Hugging Face's form", .value = "DIR"},
        options.export_to);
  c.add({.name = "--prompt", .help = "text to continue (default: a new line)", .value = "TEXT"},
        options.prompt);
  c.add(
      {.name = "--sample", .help = "tokens to write after the prompt", .value = "N", .minimum = 0},
      options.sample);
  c.add({.name = "--temperature",
         .help = "of sampling (0: the likeliest token)",
         .value = "X",
         .minimum = 0},
        options.temperature);
}

// The prompt's tokens, all of which the model must know.
std::vector<int32_t> encode_prompt(const gpt::Task& task, const gpt::Options& options,
                                   int64_t vocabulary) {
  const std::vector<int32_t> prompt = task.tokenizer().encode(options.prompt.value_or("\n"));
  if (prompt.empty()) fail_usage({"--prompt is empty: it needs one token at least"});
  for (int32_t token : prompt) {
    if (token < vocabulary) continue;
    fail_usage({"--prompt has the token ", token, ", the model's vocabulary is ", vocabulary});
  }
  return prompt;
}

void print_sample(gpt::Task& task, const gpt::Options& options, int64_t seed) {
  const int64_t vocabulary = task.module().config.vocabulary;
  const std::vector<int32_t> prompt = encode_prompt(task, options, vocabulary);
  const std::vector<int32_t> tokens =
      gpt::generate(task.module(), prompt,
                    {.tokens = options.sample,
                     .temperature = options.temperature,
                     .vocabulary = std::min(vocabulary, task.tokenizer().vocabulary_size()),
                     .seed = static_cast<uint64_t>(seed)});
  std::printf("%s%s\n", options.prompt.value_or("").c_str(),
              task.tokenizer().decode(tokens).c_str());
}

int run(train::Session session, const gpt::Options& options) {
  const train::TrainOptions& training = session.options;
  const bool trains = training.steps > 0 || training.epochs > 0;
  std::optional<gpt::Task> task;
  train::agree(session.communicator, "data", [&] {
    if (!trains && options.sample == 0 && options.export_to.empty()) {
      fail_usage({"nothing to do: give --steps or --epochs to train, --sample or --export"});
    }
    task.emplace(options, static_cast<uint64_t>(training.seed), trains);
  });
  train::Trainer trainer(session, *task);
  const train::Outcome outcome = trainer.run();
  if (outcome == train::Outcome::stopped) return train::exit_code(outcome);
  if (!options.export_to.empty() || options.sample > 0) trainer.gather_parameters();
  session.communicator.set_timeout({});  // the others wait while rank 0 writes
  train::agree(session.communicator, "results", [&] {
    if (session.world.rank != 0) return;
    if (!options.export_to.empty()) gpt::export_model(options.export_to, task->module());
    if (options.sample == 0) return;
    train::release_stop_requests();
    print_sample(*task, options, training.seed);
  });
  return train::exit_code(outcome);
}

}  // namespace

int main(int argc, char** argv) {
  gpt::Options options;
  train::Program program{.name = "gpt", .summary = "Trains a GPT-2 style language model."};
  program.add_flags = [&](flags::Command& command) { add_flags(command, options); };
  program.body = [&](train::Session session) { return run(session, options); };
  return program.run(argc, argv);
}
