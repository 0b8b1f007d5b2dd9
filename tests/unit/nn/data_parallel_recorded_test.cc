// Models that data parallelism finds awkward, held against what PyTorch's DistributedDataParallel
// made of them. tests/ddp/awkward_models.py has their other half, under the same names.
#include <algorithm>
#include <filesystem>
#include <set>

#include "data_parallel_replay.h"
#include "lockstep/autograd/checkpoint.h"

namespace lockstep::nn::replay {
namespace {

constexpr int64_t kWidth = 5;

Tensor squares(const Tensor& y) { return mean(square(y)); }

struct Net : Layer<Net> {
  Linear a{kWidth, kWidth}, b{kWidth, kWidth}, c{kWidth, kWidth}, d{kWidth, kWidth};
  Tensor forward(const Tensor& x) { return d(c(b(tanh(a(x))))); }
  void visit(Visitor& v) override {
    v("a", a);
    v("b", b);
    v("c", c);
    v("d", d);
  }
};

struct Recurrent : Layer<Recurrent> {
  LSTM lstm{3, kWidth, {.num_layers = 2, .batch_first = true}};
  Linear output{kWidth, 2};
  Tensor forward(const Tensor& x) { return output(select(lstm(x).output, 1, x.shape()[1] - 1)); }
  void visit(Visitor& v) override {
    v("lstm", lstm);
    v("output", output);
  }
};

struct Tied : Layer<Tied> {
  Embedding embedding{7, kWidth};
  Linear hidden{kWidth, kWidth}, output{kWidth, 7};
  Tied() { output.weight = embedding.weight; }
  Tensor forward(const Tensor& ids) { return output(tanh(hidden(embedding(ids)))); }
  void visit(Visitor& v) override {
    v("embedding", embedding);
    v("hidden", hidden);
    v("output", output);
  }
};

struct Mlp : Layer<Mlp> {
  Linear hidden, output;
  Mlp(int64_t inputs, int64_t outputs) : hidden(inputs, 6), output(6, outputs) {}
  Tensor forward(const Tensor& x) { return output(tanh(hidden(x))); }
  void visit(Visitor& v) override {
    v("hidden", hidden);
    v("output", output);
  }
};

struct Gan : Module {
  Mlp generator{kWidth, kWidth}, critic{kWidth, 1};
  void visit(Visitor& v) override {
    v("generator", generator);
    v("critic", critic);
  }
};

Tensor judged(const Tensor& y, bool real) {
  return binary_cross_entropy_with_logits(y, Tensor(Array::full(y.shape(), real, DType::f64)));
}

// The generator's pass gives the critic gradients that go nowhere: either it is frozen meanwhile,
// or its step is finished once more.
Outcome train_gan(Rank& rank, bool freeze) {
  Gan model;
  rank.place(model);
  const auto generator = rank.wrap(model.generator), critic = rank.wrap(model.critic);
  const auto generator_steps = rank.optimizer(model.generator);
  const auto critic_steps = rank.optimizer(model.critic);
  for (int64_t step = 0; step < rank.recording.steps(); ++step) {
    const Share s = Share::of(rank, step);
    critic_steps->zero_grad();
    const Tensor made = model.generator(s["noise"]).detach();
    s.backward(*critic, judged(model.critic(s["real"]), true) + judged(model.critic(made), false));
    critic->finish();
    critic_steps->step();
    generator_steps->zero_grad();
    if (freeze) model.critic.freeze();
    s.backward(*generator, judged(model.critic(model.generator(s["more_noise"])), true));
    generator->finish();
    generator_steps->step();
    freeze ? model.critic.requires_grad() : void(critic->finish());
    rank.end_step(model);
  }
  return rank.end(model);
}

using Train = std::function<Outcome(Rank&)>;

template <class Model>
Train training(void (*passes)(Model&, const Pass&), Options<Model> options = {}) {
  return [=](Rank& rank) { return train<Model>(rank, passes, options); };
}

void all_four(Net& m, const Pass& s) { s.backward(squares(m(s["x"]))); }

Tensor a_and_d(Net& m, const Share& s) { return squares(m.d(tanh(m.a(s["x"])))); }

void shared_encoder(Net& m, const Pass& s) {
  const Tensor one = tanh(m.a(s["x"])), two = tanh(m.a(s["y"]));
  s.backward(squares(m.b(one) - m.c(two)) + squares(m.d(one)));
}

void another_branch_on_each_rank(Net& m, const Pass& s) {
  Linear* experts[] = {&m.b, &m.c, &m.d};
  Linear& expert = *experts[(s.step + s.index() * (s.step % 2)) % 3];
  s.backward(squares(expert(tanh(m.a(s["x"])))));
}

void two_losses_two_backwards(Net& m, const Pass& s) {
  s.backward(a_and_d(m, s), false);
  s.backward(squares(m.b(tanh(m.a(s["y"])))));
}

void a_second_backward_now_and_then(Net& m, const Pass& s) {
  const bool twice = s.step % 3 == 1;
  s.backward(a_and_d(m, s), !twice);
  if (twice) s.backward(squares(m.b(m.a(s["y"]))));
}

void gradient_penalty(Net& m, const Pass& s) {
  const Tensor x = Tensor::variable(s["x"].value());
  const Tensor y = m.d(tanh(m.c(tanh(m.b(tanh(m.a(x)))))));
  const Tensor slope = grad(sum(y), x, {.create_graph = true});
  s.backward(squares(y) + squares(norm(slope, 2, {1}) - 1.0));
}

void used_in_some_steps(Net& m, const Pass& s, bool used) {
  const Tensor y = m.d(tanh(m.a(s["x"])));
  s.backward(squares(used ? y + m.c(s["y"]) : y));
}
void unused_from_step_5_on(Net& m, const Pass& s) { used_in_some_steps(m, s, s.step < 5); }
void used_from_step_5_on(Net& m, const Pass& s) { used_in_some_steps(m, s, s.step >= 5); }
void used_every_third_step(Net& m, const Pass& s) { used_in_some_steps(m, s, s.step % 3 == 0); }

void outputs_without_a_loss(Net& m, const Pass& s) {
  const Tensor hidden = tanh(m.a(s["x"]));
  const Tensor heads[] = {m.b(hidden), m.c(hidden)};
  s.backward(squares(heads[s.step / 2 % 2]));
}

void two_forwards_one_backward(Net& m, const Pass& s) {
  const Tensor one = m.b(tanh(m.a(s["x"]))), two = m.c(tanh(m.a(s["y"])));
  s.backward(squares(one) + squares(two) + squares(one - two));
}

void lstm(Recurrent& m, const Pass& s) { s.backward(mse_loss(m(s["x"]), s["y"])); }

void tied_weights(Tied& m, const Pass& s) {
  s.backward(cross_entropy(m(s["tokens"]), s["labels"]));
}

void used_twice(Net& m, const Pass& s) {
  s.backward(squares(m.d(m.c(m.b(m.a(tanh(m.a(s["x"]))))))));
}

void recomputed(Net& m, const Pass& s) {
  const auto middle = [&m](const Tensor& h) { return tanh(m.c(tanh(m.a(m.b(h))))); };
  s.backward(squares(m.d(checkpoint(middle, tanh(m.a(s["x"]))))));
}

void penalty_on_parameters(Net& m, const Pass& s) {
  Tensor loss = squares(m(s["x"]));
  for (const Parameter& parameter : m.parameters()) loss = loss + 0.1 * squares(parameter);
  s.backward(loss);
}

void accumulation(Net& m, const Pass& s) {
  for (int i = 0; i < 2; ++i) {
    const Tensor y = m.d(tanh(m.a(s.part(i, 2)["x"])));
    s.backward(0.5 * squares(i == 0 ? m.b(y) : m.c(y)), i == 1);
  }
}

void another_number_of_passes_on_each_rank(Net& m, const Pass& s) {
  for (int i = 0; i <= s.index(); ++i) {
    s.backward(a_and_d(m, s.part(i, s.index() + 1)), i == s.index());
  }
}

// The first layer is frozen in these steps.
Options<Net> frozen(int64_t from, int64_t to, int64_t wrap_again_at = -1) {
  return {.prepare = [=](Net& m, int64_t s) { m.requires_grad(s < from || s >= to, "a"); },
          .wrap_again_at = wrap_again_at};
}

// Rank r has data for 12 - 4 r steps.
Options<Net> ends_early(double weight_without_data) {
  return {.steps_with_data = [](int rank) { return 12 - 4 * rank; },
          .weight_without_data = weight_without_data};
}

const std::map<std::string, Train>& cases() {
  static const std::map<std::string, Train> all = {
      {"shared_encoder", training(shared_encoder)},
      {"another_branch_on_each_rank", training(another_branch_on_each_rank)},
      {"frozen_then_thawed", training(all_four, frozen(0, 5, 5))},
      {"frozen_for_a_while", training(all_four, frozen(4, 8))},
      {"two_losses_two_backwards", training(two_losses_two_backwards)},
      {"a_second_backward_now_and_then", training(a_second_backward_now_and_then)},
      {"gan", [](Rank& rank) { return train_gan(rank, rank.plan.as_pytorch); }},
      {"gradient_penalty", training(gradient_penalty)},
      {"unused_from_step_5_on", training(unused_from_step_5_on)},
      {"used_from_step_5_on", training(used_from_step_5_on)},
      {"outputs_without_a_loss", training(outputs_without_a_loss)},
      {"two_forwards_one_backward", training(two_forwards_one_backward)},
      {"lstm", training(lstm, {.clip_norm = 0.1})},
      {"tied_weights", training(tied_weights)},
      {"used_twice", training(used_twice)},
      {"recomputed", training(recomputed)},
      {"penalty_on_parameters", training(penalty_on_parameters)},
      {"accumulation", training(accumulation)},
      {"another_number_of_passes_on_each_rank", training(another_number_of_passes_on_each_rank)},
      {"gradients_kept_for_three_steps", training(used_every_third_step, {.zero_grad_every = 3})},
      {"uneven_batches", training(all_four)},
      {"ends_early_mean_over_all_ranks", training(all_four, ends_early(1))},
      {"ends_early_mean_over_ranks_with_data", training(all_four, ends_early(0))},
  };
  return all;
}

std::vector<std::string> names() {
  std::vector<std::string> result;
  for (const auto& [name, train] : cases()) result.push_back(name);
  return result;
}

class RecordedDataParallel : public ::testing::TestWithParam<std::string> {};

// The plans of all recorded runs: each with small buckets, and as a PyTorch program.
void expect_all_runs(const std::string& name, ShardLevel shard,
                     const std::function<bool(const Plan&)>& wanted) {
  const Recording recording(name);
  const BucketSizes small{.first_mb = 0.0003, .other_mb = 0.0005, .last_mb = 0.0003};
  int runs = 0;
  for (const std::string run : {"2_ranks", "3_ranks", "whole_batch"}) {
    if (!recording.tensors.contains(run + ".loss")) continue;
    const bool whole = run == "whole_batch";
    std::vector<std::vector<int64_t>> shares{{8, 4}, {7, 5, 0}, {0, 12}};
    if (!whole) {
      shares = {Tensor(recording.tensors.at(run + ".samples")).to_vector<int64_t>()};
    }
    for (const auto& samples : shares) {
      for (bool as_pytorch : {false, true}) {
        const Plan plan{.samples = samples,
                        .weigh = whole,
                        .as_pytorch = as_pytorch,
                        .bucket_sizes = as_pytorch ? BucketSizes{} : small,
                        .shard = shard};
        if (!wanted(plan)) continue;
        ++runs;
        SCOPED_TRACE(concat({run, as_pytorch ? ", as a PyTorch program" : "", ", level ",
                             static_cast<int>(shard)}));
        expect_recorded(recording, run, plan, cases().at(name));
      }
    }
  }
  EXPECT_GT(runs, 0);
}

TEST_P(RecordedDataParallel, TrainsAsPyTorch) {
  expect_all_runs(GetParam(), ShardLevel::none, [](const Plan&) { return true; });
}

TEST_P(RecordedDataParallel, TrainsAsPyTorchWhereItIsSharded) {
  const std::string& name = GetParam();
  // Slices stay where they are: nothing is sharded anew in the middle.
  const auto once = [&](const Plan& plan) {
    return name != "frozen_then_thawed" || !plan.as_pytorch;
  };
  expect_all_runs(name, ShardLevel::optimizer, once);
  expect_all_runs(name, ShardLevel::gradients, once);
  // Where parameters are gathered, all ranks use the same, in the same order.
  const std::set<std::string> apart = {
      "another_branch_on_each_rank", "another_number_of_passes_on_each_rank",
      "ends_early_mean_over_all_ranks", "ends_early_mean_over_ranks_with_data"};
  if (apart.contains(name)) return;
  expect_all_runs(name, ShardLevel::parameters, [&](const Plan& plan) {
    return once(plan) && std::ranges::count(plan.samples, 0) == 0;
  });
}

INSTANTIATE_TEST_SUITE_P(Models, RecordedDataParallel, ::testing::ValuesIn(names()),
                         [](const auto& info) { return info.param; });

TEST(RecordedDataParallel, EveryRecordingIsMadeAgain) {
  std::vector<std::string> recorded;
  for (const auto& file :
       std::filesystem::directory_iterator(lockstep::testing::test_data("ddp"))) {
    recorded.push_back(file.path().stem());
  }
  std::sort(recorded.begin(), recorded.end());
  EXPECT_EQ(recorded, names());
}

}  // namespace
}  // namespace lockstep::nn::replay
