// Models that data parallelism finds awkward: each trains 20 steps in double on one rank with the
// whole batch and on several with their shares, and must come to the same parameters.
#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "lockstep/nn/layers.h"
#include "lockstep/nn/optim.h"
#include "lockstep/nn/parallel/data_parallel.h"
#include "support/gradient_check.h"
#include "support/thread_ranks.h"

namespace lockstep::nn {
namespace {

using testing::random_array;
using testing::run_ranks;

constexpr int64_t kBatch = 24;
constexpr int kSteps = 20;
constexpr int64_t kWidth = 5;

// A share of a step's batch: samples [first, first + count).
struct Share {
  int step;
  int64_t first, count;

  Tensor input(int salt = 0) const {
    const Array all = random_array({kBatch, kWidth}, 100 * static_cast<uint64_t>(salt) + step);
    return Tensor(all.narrow(0, first, count));
  }
  Share part(int64_t from, int64_t to) const {
    const int64_t begin = std::max(first, from), end = std::min(first + count, to);
    return {step, begin, std::max<int64_t>(0, end - begin)};
  }
};

// Sums over samples, so that shares add up to the batch.
Tensor squares(const Tensor& y) { return sum(square(y)); }

struct Model : Layer<Model> {
  Linear a{kWidth, kWidth}, b{kWidth, kWidth}, c{kWidth, kWidth}, d{kWidth, kWidth};
  Tensor forward(const Tensor& x) { return d(tanh(a(x))); }
  void visit(Visitor& v) override {
    v("a", a);
    v("b", b);
    v("c", c);
    v("d", d);
  }
};

using Backward = std::function<void(Model& model, const Share& share, double scale)>;

struct Case {
  const char* name;
  // Adds the gradients of scale times the sum over the share's samples.
  Backward backward;
  // Before each step.
  std::function<void(Model& model, int step)> prepare = [](Model&, int) {};
};

void backward(const Tensor& loss, double scale) { (loss * scale).backward(); }

std::vector<Case> cases() {
  return {
      {"SharedEncoder",
       [](Model& m, const Share& s, double scale) {
         const Tensor one = tanh(m.a(s.input(1))), two = tanh(m.a(s.input(2)));
         backward(squares(m.b(one) - m.c(two)) + squares(m.d(one)), scale);
       }},
      {"AnotherBranchOnEachRank",
       [](Model& m, const Share& s, double scale) {
         Linear* experts[] = {&m.b, &m.c, &m.d};
         for (int i = 0; i < 3; ++i) {
           // The borders move, so that a branch is new to a rank now and then.
           const int64_t shift = s.step % 5;
           const Share part =
               s.part(i == 0 ? 0 : 8 * i + shift, i == 2 ? kBatch : 8 * i + 8 + shift);
           if (part.count > 0) backward(squares((*experts[i])(m.a(part.input()))), scale);
         }
       }},
      {"FrozenThenThawedBackbone",
       [](Model& m, const Share& s, double scale) { backward(squares(m(s.input())), scale); },
       [](Model& m, int step) {
         for (Parameter parameter : {m.a.weight, m.a.bias}) {
           parameter.set_frozen(step < 5 || (step >= 10 && step < 14));
         }
       }},
      {"ThawedAfterTheStart",
       [](Model& m, const Share& s, double scale) {
         backward(squares(m(s.input())) + squares(m.b(s.input(1))), scale);
       },
       [](Model& m, int step) { m.b.weight.set_frozen(step < 3); }},
      {"TwoLossesTwoBackwards",
       [](Model& m, const Share& s, double scale) {
         backward(squares(m(s.input())), scale);
         backward(squares(m.b(tanh(m.a(s.input(1))))), scale);
       }},
      {"ASecondBackwardNowAndThen",
       [](Model& m, const Share& s, double scale) {
         backward(squares(m(s.input())), scale);
         if (s.step % 3 == 1) backward(squares(m.a(s.input(2))), scale);
       }},
      {"GradientPenalty",
       [](Model& m, const Share& s, double scale) {
         const Tensor x = Tensor::variable(s.input().value());
         const Tensor y = squares(m(x));
         const Tensor slope = grad(y, x, {.create_graph = true});
         backward(y + 0.1 * squares(slope), scale);
       }},
      {"UnusedFromStepFiveOn",
       [](Model& m, const Share& s, double scale) {
         Tensor y = m(s.input());
         if (s.step < 5) y = y + m.c(s.input(1));
         backward(squares(y), scale);
       }},
      {"UsedFromStepFiveOn",
       [](Model& m, const Share& s, double scale) {
         Tensor y = m(s.input());
         if (s.step >= 5) y = y + m.c(s.input(1));
         backward(squares(y), scale);
       }},
      {"UsedTwice", [](Model& m, const Share& s,
                       double scale) { backward(squares(m.a(tanh(m.a(s.input())))), scale); }},
  };
}

using Values = std::map<std::string, std::vector<double>>;

Values train(Communicator& communicator, const Case& model_case, int accumulation) {
  Model model;
  const BucketSizes small{.first_mb = 0.0003, .other_mb = 0.0005, .last_mb = 0.0003};
  model_case.prepare(model, 0);
  DistributedDataParallel ddp(
      model, communicator, {.bucket_sizes = small, .placement = {.dtype = DType::f64, .seed = 3}});
  optim::SGD optimizer(model.parameters(), {.learning_rate = 2e-3, .momentum = 0.9});
  const int64_t each = kBatch / communicator.size(), micro = each / accumulation;
  for (int step = 0; step < kSteps; ++step) {
    model_case.prepare(model, step);
    optimizer.zero_grad();
    for (int i = 0; i < accumulation; ++i) {
      std::optional<DistributedDataParallel::NoSync> no_sync;
      if (i + 1 < accumulation) no_sync.emplace(ddp);
      // The mean over the ranks of the sums is the batch's sum over their number.
      model_case.backward(model, {step, communicator.rank() * each + i * micro, micro},
                          static_cast<double>(communicator.size()) / kBatch);
    }
    ddp.finish();
    optimizer.step();
  }
  Values result;
  for (auto& [name, parameter] : model.named_parameters()) {
    result[name] = parameter.tensor().to_vector<double>();
  }
  return result;
}

class AwkwardModel : public ::testing::TestWithParam<Case> {};

TEST_P(AwkwardModel, TrainsAsOnOneRank) {
  const auto alone = make_single_communicator();
  const Values expected = train(*alone, GetParam(), 1);
  for (int ranks : {1, 2, 3, 4, 8}) {
    for (int accumulation : {1, kBatch / ranks % 3 == 0 ? 3 : 2}) {
      std::mutex mutex;
      run_ranks(ranks, [&](Communicator& communicator) {
        const Values found = train(communicator, GetParam(), accumulation);
        const std::lock_guard lock(mutex);
        for (const auto& [name, values] : expected) {
          for (size_t i = 0; i < values.size(); ++i) {
            ASSERT_NEAR(found.at(name)[i], values[i], 1e-10 * std::max(1.0, std::abs(values[i])))
                << name << " on rank " << communicator.rank() << " of " << ranks
                << ", accumulation " << accumulation;
          }
        }
      });
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, AwkwardModel, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return std::string(info.param.name); });

// Two models, two optimizers, each with data parallelism of its own.
Values train_adversaries(Communicator& communicator) {
  Model generator, critic;
  const Placement first{.dtype = DType::f64, .seed = 1}, second{.dtype = DType::f64, .seed = 2};
  DistributedDataParallel generators(generator, communicator, {.placement = first});
  DistributedDataParallel critics(critic, communicator, {.placement = second});
  optim::SGD generator_steps(generator.parameters(), {.learning_rate = 1e-2});
  optim::SGD critic_steps(critic.parameters(), {.learning_rate = 1e-2});
  const int64_t each = kBatch / communicator.size();
  const double scale = static_cast<double>(communicator.size()) / kBatch;
  for (int step = 0; step < kSteps; ++step) {
    const Share share{step, communicator.rank() * each, each};
    critic_steps.zero_grad();
    const Tensor made = generator(share.input(1)).detach();
    backward(squares(critic(made)) - squares(tanh(critic(share.input(2)))), scale);
    critics.finish();
    critic_steps.step();
    generator_steps.zero_grad();
    backward(squares(critic(generator(share.input(3))) - 1.0), scale);
    generators.finish();
    generator_steps.step();
    critics.finish();  // its gradients of the generator's pass go nowhere
  }
  Values result;
  for (auto& [name, parameter] : generator.named_parameters()) {
    result["g." + name] = parameter.tensor().to_vector<double>();
  }
  for (auto& [name, parameter] : critic.named_parameters()) {
    result["c." + name] = parameter.tensor().to_vector<double>();
  }
  return result;
}

TEST(AwkwardModels, TwoOptimizersInTurns) {
  const auto alone = make_single_communicator();
  const Values expected = train_adversaries(*alone);
  for (int ranks : {2, 3}) {
    std::mutex mutex;
    run_ranks(ranks, [&](Communicator& communicator) {
      const Values found = train_adversaries(communicator);
      const std::lock_guard lock(mutex);
      for (const auto& [name, values] : expected) {
        for (size_t i = 0; i < values.size(); ++i) {
          ASSERT_NEAR(found.at(name)[i], values[i], 1e-10) << name;
        }
      }
    });
  }
}

// A prediction that fails costs one late bucket, and the next step knows better.
TEST(AwkwardModels, ALateGradientIsCorrectedInTheNextStep) {
  run_ranks(2, [](Communicator& communicator) {
    Model model;
    DistributedDataParallel ddp(model, communicator,
                                {.bucket_sizes = {.first_mb = 0.0001, .other_mb = 0.0001},
                                 .placement = {.dtype = DType::f64}});
    const std::vector<int64_t> expected = {0, 2, 0, 0};  // weight and bias of c
    for (int step = 0; step < 4; ++step) {
      for (const Parameter& parameter : model.parameters()) parameter.leaf().zero_grad();
      const Share share{step, 0, 4};
      Tensor loss = squares(model(share.input()));
      if (step > 0) loss = loss + squares(model.c(model.a(share.input())));
      loss.backward();
      ddp.finish();
      // c fires before a: it is late only where the buckets behind it did not hold it back.
      EXPECT_LE(ddp.late_count(), expected[static_cast<size_t>(step)]) << "step " << step;
      EXPECT_EQ(static_cast<bool>(model.c.weight.grad()), step > 0);
    }
  });
}

}  // namespace
}  // namespace lockstep::nn
