#include "lockstep/launcher/train/options.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "lockstep/launcher/flags/flags.h"
#include "lockstep/launcher/train/make_optimizer.h"
#include "lockstep/runtime/context.h"
#include "lockstep/runtime/error.h"

namespace lockstep::train {

void TrainOptions::add_to(flags::Command& c) {
  c.group("Length and batches");
  c.add({.name = "--steps", .help = "optimizer steps of the whole run", .value = "N", .minimum = 0},
        steps);
  c.add({.name = "--epochs",
         .help = "passes over the data, instead of --steps",
         .value = "X",
         .minimum = 0},
        epochs);
  c.add({.name = "--global-batch",
         .help = "samples of one step, over all ranks",
         .value = "N",
         .minimum = 1},
        global_batch);
  c.add({.name = "--micro-batch",
         .help = "samples of one forward on one rank (0: all at once)",
         .value = "N",
         .minimum = 0},
        micro_batch);
  c.group("Optimizer");
  c.add({.name = "--optimizer", .help = "update rule", .choices = optimizer_names()}, optimizer);
  c.add({.name = "--learning-rate", .help = "highest learning rate", .value = "X", .minimum = 0},
        learning_rate);
  c.add({.name = "--schedule",
         .help = "course of the rate after warm-up",
         .choices = {"constant", "linear", "cosine"}},
        schedule);
  c.add({.name = "--warmup-steps",
         .help = "steps over which the rate rises",
         .value = "N",
         .minimum = 0},
        warmup_steps);
  c.add({.name = "--minimum-learning-rate",
         .help = "the rate at the end (default: a tenth)",
         .value = "X",
         .minimum = 0},
        minimum_learning_rate);
  c.add({.name = "--beta1",
         .help = "decay of the first moment",
         .value = "X",
         .minimum = 0,
         .maximum = 1},
        beta1);
  c.add({.name = "--beta2",
         .help = "decay of the second moment, or rmsprop's alpha, adadelta's rho",
         .value = "X",
         .minimum = 0,
         .maximum = 1},
        beta2);
  c.add({.name = "--epsilon", .help = "keeps divisors from zero", .value = "X", .minimum = 0},
        epsilon);
  c.add({.name = "--momentum", .help = "momentum of sgd and rmsprop", .value = "X", .minimum = 0},
        momentum);
  c.add({.name = "--weight-decay",
         .help = "decay of tensors of two or more dimensions",
         .value = "X",
         .minimum = 0},
        weight_decay);
  c.add({.name = "--gradient-clip",
         .help = "largest norm of the gradients (0: no clipping)",
         .value = "X",
         .minimum = 0},
        gradient_clip);
  c.group("Machine");
  c.add({.name = "--precision",
         .help = "arithmetic; 16 bits: under autocast, f32 parameters and gradients",
         .choices = {"f64", "f32", "bf16", "fp16"}},
        precision);
  c.add({.name = "--device",
         .help = "where to compute; auto: on the rank's GPU where there is one",
         .choices = {"auto", "cpu", "cuda"}},
        device);
  c.add({.name = "--threads",
         .help = "threads of one rank (0: the cores, shared by the ranks)",
         .value = "N",
         .minimum = 0},
        threads);
  c.add({.name = "--memory-limit",
         .help = "memory a rank may hold, such as 2GiB (default: none)",
         .value = "SIZE"},
        memory_limit);
  c.add({.name = "--memory-reserve",
         .help = "GPU memory a rank takes at its start and keeps (default: none)",
         .value = "SIZE"},
        memory_reserve);
  c.add(
      {.name = "--bucket-mb",
       .help = "size of a gradient bucket in MiB; 0: 25, or a 64th of the gradients where that is "
               "more; auto: tries sizes, keeps the best",
       .value = "X|auto",
       .minimum = 0,
       .unset = "auto"},
      bucket_mb);
  c.add({.name = "--reduce-dtype",
         .help = "what gradients travel in; f32: their own precision",
         .choices = {"f32", "bf16", "fp16"}},
        reduce_dtype);
  c.add({.name = "--shard",
         .help = "what ranks share out, each with those before it (ZeRO-1, 2, 3)",
         .choices = {"none", "optimizer", "gradients", "parameters"}},
        shard);
  c.add({.name = "--recompute",
         .help = "what backward computes again instead of keeping it",
         .choices = {"none", "blocks"}},
        recompute);
  c.add({.name = "--cuda-graph",
         .help = "passes that a GPU does by itself; auto: where nothing is lost by it",
         .choices = {"auto", "on", "off"}},
        cuda_graph);
  c.add({.name = "--timeout",
         .help = "longest a collective may go without progress",
         .value = "TIME"},
        timeout);
  c.group("Run");
  c.add({.name = "--seed", .help = "of initial weights, data order and dropout", .value = "N"},
        seed);
  c.add({.name = "--validation-every",
         .help = "steps between validations (0: never)",
         .value = "N",
         .minimum = 0},
        validation_every);
  c.add({.name = "--run-dir",
         .help = "everything the run writes (default: writes nothing)",
         .value = "DIR"},
        run_dir);
  c.add({.name = "--checkpoint-every",
         .help = "steps, or a time such as 10m (default: at the end)",
         .value = "N|TIME"},
        checkpoint_every);
  c.add({.name = "--checkpoint-async",
         .help = "write checkpoints while training goes on, from a copy in the host's memory"},
        checkpoint_async);
  c.add({.name = "--keep", .help = "checkpoints to keep", .value = "N", .minimum = 1}, keep);
  c.add({.name = "--resume",
         .help = "auto: go on from the newest checkpoint; never; or its path",
         .value = "auto|never|PATH"},
        resume);
  c.add({.name = "--metrics",
         .help = "the metrics file (default: metrics.jsonl in --run-dir)",
         .value = "FILE"},
        metrics);
  c.add({.name = "--trace",
         .help = "a timeline of the last steps, for chrome://tracing and Perfetto",
         .value = "FILE"},
        trace);
  c.add({.name = "--quiet", .help = "no progress on the terminal"}, quiet);
}

namespace {

void check_size(const char* flag, const std::string& text) {
  if (text.empty() || flags::parse_size(text)) return;
  fail_usage({flag, " ", text, ": expected a size such as 512M or 2GiB"});
}

bool is_number(const std::string& text) {
  return !text.empty() && text.size() < 18 &&
         text.find_first_not_of("0123456789") == std::string::npos;
}

}  // namespace

int64_t TrainOptions::checkpoint_every_steps() const {
  return is_number(checkpoint_every) ? std::stoll(checkpoint_every) : 0;
}

std::chrono::milliseconds TrainOptions::checkpoint_every_time() const {
  if (checkpoint_every.empty() || is_number(checkpoint_every)) return {};
  return flags::parse_duration(checkpoint_every).value_or(std::chrono::milliseconds(0));
}

void TrainOptions::check() const {
  if (steps > 0 && epochs > 0) fail_usage({"--steps and --epochs exclude each other"});
  for (const auto& [flag, beta] : {std::pair{"--beta1", beta1}, {"--beta2", beta2}}) {
    if (beta >= 1) fail_usage({flag, " ", beta, ": a decay is below 1"});
  }
  if (!checkpoint_every.empty() && !is_number(checkpoint_every) &&
      !flags::parse_duration(checkpoint_every)) {
    fail_usage({"--checkpoint-every ", checkpoint_every,
                ": expected a number of steps or a time such as 10m"});
  }
  check_size("--memory-limit", memory_limit);
  check_size("--memory-reserve", memory_reserve);
  if (!memory_reserve.empty() && context().device.kind == DeviceKind::cpu) {
    fail_usage({"--memory-reserve ", memory_reserve, ": only a GPU's memory is reserved, and this ",
                "runs on the CPU"});
  }
  if (const auto limit = memory_limit_bytes();
      limit > 0 && flags::parse_size(memory_reserve).value_or(0) > limit) {
    fail_usage({"--memory-reserve ", memory_reserve, " is above --memory-limit ", memory_limit});
  }
  if (shard != "none" && !bucket_mb) {
    fail_usage({"--bucket-mb auto: slices of sharded state stay where they are; give a size"});
  }
  if (run_dir.empty() && !checkpoint_every.empty()) {
    fail_usage({"--checkpoint-every needs --run-dir"});
  }
  if (checkpoint_async && checkpoint_every.empty()) {
    fail_usage({"--checkpoint-async needs --checkpoint-every: a run's last is never written so"});
  }
  if (minimum_learning_rate && *minimum_learning_rate > learning_rate) {
    fail_usage({"--minimum-learning-rate ", *minimum_learning_rate, " is above --learning-rate ",
                learning_rate});
  }
}

data::BatchPlan TrainOptions::batch_plan(int world_size, int64_t samples, bool endless) const {
  const int64_t share = std::max<int64_t>(1, global_batch / world_size);
  const int64_t run = std::llround(epochs * static_cast<double>(samples));
  if (epochs > 0 && run == 0) {
    fail_usage({"--epochs ", epochs, " of ", samples, " samples is less than one sample"});
  }
  return data::BatchPlan({.global_batch = global_batch,
                          .world_size = world_size,
                          .micro_batch = micro_batch > 0 ? micro_batch : share,
                          .epoch_samples = endless ? 0 : samples,
                          .run_samples = run});
}

std::optional<DType> TrainOptions::autocast_dtype() const {
  if (precision == "bf16") return DType::bf16;
  if (precision == "fp16") return DType::f16;
  return std::nullopt;
}

nn::DataParallelOptions TrainOptions::data_parallel() const {
  nn::DataParallelOptions options{.placement = {.dtype = dtype(),
                                                .device = context().device,
                                                .seed = static_cast<uint64_t>(seed)}};
  options.tune_bucket_sizes = !bucket_mb;
  if (bucket_mb) options.bucket_sizes.other_mb = *bucket_mb;
  if (reduce_dtype != "f32") {
    options.reduce_dtype = reduce_dtype == "bf16" ? DType::bf16 : DType::f16;
  }
  options.shard = shard_level();
  return options;
}

int64_t TrainOptions::memory_limit_bytes() const {
  return flags::parse_size(memory_limit).value_or(0);
}

int64_t TrainOptions::memory_reserve_bytes() const {
  const int64_t limit = memory_limit_bytes();
  const int64_t bytes = flags::parse_size(memory_reserve).value_or(0);
  const bool allowed = context().device.kind != DeviceKind::cpu && (limit == 0 || bytes <= limit);
  return allowed ? bytes : 0;
}

nn::ShardLevel TrainOptions::shard_level() const {
  if (shard == "optimizer") return nn::ShardLevel::optimizer;
  if (shard == "gradients") return nn::ShardLevel::gradients;
  return shard == "parameters" ? nn::ShardLevel::parameters : nn::ShardLevel::none;
}

std::string TrainOptions::to_json() const {
  nlohmann::ordered_json json{
      {"steps", steps},
      {"epochs", epochs},
      {"global_batch", global_batch},
      {"micro_batch", micro_batch},
      {"learning_rate", learning_rate},
      {"schedule", schedule},
      {"warmup_steps", warmup_steps},
      {"minimum_learning_rate", minimum_learning_rate.value_or(learning_rate / 10)},
      {"optimizer", optimizer},
      {"beta1", beta1},
      {"beta2", beta2},
      {"epsilon", epsilon},
      {"momentum", momentum},
      {"weight_decay", weight_decay},
      {"gradient_clip", gradient_clip},
      {"precision", precision},
      {"device", device},
      {"bucket_mb", bucket_mb ? nlohmann::ordered_json(*bucket_mb) : "auto"},
      {"reduce_dtype", reduce_dtype},
      {"shard", shard},
      {"recompute", recompute},
      {"cuda_graph", cuda_graph},
      {"timeout_seconds", static_cast<double>(timeout.count()) / 1000},
      {"seed", seed},
      {"validation_every", validation_every},
      {"run_dir", run_dir.string()},
      {"checkpoint_every", checkpoint_every},
      {"checkpoint_async", checkpoint_async},
      {"keep", keep},
      {"resume", resume},
      {"metrics", metrics.string()},
      {"trace", trace.string()},
  };
  return json.dump(1);
}

double learning_rate_at(const TrainOptions& options, int64_t step, int64_t steps) {
  const double peak = options.learning_rate;
  const double low = options.minimum_learning_rate.value_or(peak / 10);
  if (step < options.warmup_steps) {
    return peak * static_cast<double>(step + 1) / static_cast<double>(options.warmup_steps);
  }
  const double progress = static_cast<double>(step - options.warmup_steps) /
                          static_cast<double>(std::max<int64_t>(1, steps - options.warmup_steps));
  if (options.schedule == "linear") return peak + (low - peak) * progress;
  if (options.schedule == "cosine") {
    return low + 0.5 * (peak - low) * (1 + std::cos(std::numbers::pi * progress));
  }
  return peak;
}

}  // namespace lockstep::train
