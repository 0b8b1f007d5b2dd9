#include "lockstep/nn/captured_passes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "lockstep/autograd/ops.h"
#include "lockstep/nn/layers.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "unit/cuda/captured_training.h"

namespace lockstep {
namespace {

using nn::CapturedPasses;
using test::Training;

std::map<std::string, std::vector<double>> buffers_of(Training& training) {
  std::map<std::string, std::vector<double>> values;
  for (const auto& [name, buffer] : training.net().named_buffers()) {
    values[name] = test::on_host(kernels::copy(buffer.array())).to_vector<double>();
  }
  return values;
}

TEST(CapturedPasses, TrainAsOthersDo) {
  Training captured(true), plain(false);
  EXPECT_EQ(captured.steps(12), plain.steps(12));
  EXPECT_EQ(captured.passes().refusal(), "");
  EXPECT_GE(captured.passes().replays(), 16);
  EXPECT_LE(captured.calls, 8);
  EXPECT_EQ(plain.calls, 24);
  EXPECT_EQ(buffers_of(captured), buffers_of(plain));
}

TEST(CapturedPasses, In16Bits) {
  LowPrecisionCopies mine(DType::bf16), theirs(DType::bf16);
  Training captured(true, &mine), plain(false, &theirs);
  EXPECT_EQ(captured.steps(10), plain.steps(10));
  EXPECT_GT(captured.passes().replays(), 0);
  // What was current when the pass was captured is so no more.
  captured.net().output.weight.assign(Array::full({4, 16}, 0.125, DType::f32, test::device()));
  plain.net().output.weight.assign(Array::full({4, 16}, 0.125, DType::f32, test::device()));
  EXPECT_EQ(captured.steps(4), plain.steps(4));
}

// With a seed set once, every pass draws other numbers.
TEST(CapturedPasses, RandomNumbersGoOn) {
  std::vector<std::vector<double>> losses;
  for (const bool captures : {true, false}) {
    nn::Dropout dropout(0.5);
    nn::Linear layer(64, 1);
    layer.place({.device = test::device()});
    CapturedPasses passes(layer, backend_of(test::device()));
    if (!captures) passes.refuse("compared with");
    const Tensor x(Array::full({4, 64}, 1, DType::f32, test::device()));
    losses.emplace_back();
    manual_seed(5);
    for (int i = 0; i < 12; ++i) {
      if (i == 9) manual_seed(7);
      const Array loss = passes.run(
          0, 1, [] {}, [&] { return sum(layer(dropout(x))); });
      losses.back().push_back(loss.item());
    }
    EXPECT_EQ(passes.replays() > 0, captures);
  }
  EXPECT_EQ(losses[0], losses[1]);
  EXPECT_NE(losses[0][7], losses[0][8]);
}

TEST(CapturedPasses, ParametersAreFrozenAndThawed) {
  Training captured(true), plain(false);
  for (int i = 0; i < 18; ++i) {
    for (Training* training : {&captured, &plain}) {
      training->net().hidden.weight.set_frozen(i >= 6 && i < 12);
    }
    EXPECT_EQ(captured.step(), plain.step()) << i;
  }
  EXPECT_GT(captured.passes().replays(), 20);
}

// A pass's weight, as loss scaling changes it.
TEST(CapturedPasses, AreWeighedAnew) {
  nn::Linear layer(3, 2);
  layer.place({.device = test::device()});
  CapturedPasses passes(layer, backend_of(test::device()));
  const Tensor x(Array::full({4, 3}, 1, DType::f32, test::device()));
  for (int i = 0; i < 12; ++i) {
    const float weight = i < 6 || i % 2 == 0 ? 2 : 0.5;
    layer.bias.leaf().zero_grad();
    passes.run(
        0, weight, [] {}, [&] { return sum(layer(x)); });
    EXPECT_EQ(layer.bias.grad().value().to_vector<float>(),
              (std::vector<float>{4 * weight, 4 * weight}))
        << i;
  }
  EXPECT_GT(passes.replays(), 6);
}

// As data parallelism does when it packs its buckets.
TEST(CapturedPasses, FollowParametersThatMove) {
  Training captured(true), plain(false);
  for (int i = 0; i < 16; ++i) {
    if (i == 6 || i == 11) {
      for (const nn::NamedParameter& named : captured.net().named_parameters()) {
        const auto elsewhere = [&] {
          return Array::full(named.parameter.shape(), 0, DType::f32, test::device());
        };
        named.parameter.leaf().seat_gradient(elsewhere());
        if (i == 6) nn::Parameter(named.parameter).seat(elsewhere());
      }
    }
    EXPECT_EQ(captured.step(), plain.step()) << i;
  }
  EXPECT_EQ(buffers_of(captured), buffers_of(plain));
  EXPECT_GT(captured.passes().replays(), 8);
}

TEST(CapturedPasses, FollowBuffersThatMove) {
  Training captured(true), plain(false);
  for (int i = 0; i < 16; ++i) {
    for (nn::NamedBuffer& named : captured.net().named_buffers()) {
      if (i != 8) continue;
      const Array& own = named.buffer.array();
      named.buffer.seat(Array::empty(own.shape(), own.dtype(), own.device()));
    }
    EXPECT_EQ(captured.step(), plain.step()) << i;
  }
  EXPECT_EQ(buffers_of(captured), buffers_of(plain));
  EXPECT_GT(captured.passes().replays(), 12);
}

// What others need is theirs, and training goes on without.
TEST(CapturedPasses, GiveWayWhereMemoryRunsOut) {
  Backend& backend = backend_of(test::device());
  backend.trim();
  Training captured(true), plain(false);
  EXPECT_EQ(captured.steps(6), plain.steps(6));
  EXPECT_EQ(captured.passes().refusal(), "");
  backend.trim();
  backend.set_limit(backend.statistics().reserved_bytes);
  {
    std::vector<Array> others;
    while (captured.passes().refusal().empty()) {
      others.push_back(Array::empty({1 << 16}, DType::u8, test::device()));
      ASSERT_LT(others.size(), 4096u);
    }
  }
  backend.set_limit(0);
  EXPECT_EQ(captured.steps(3), plain.steps(3));
}

TEST(CapturedPasses, OtherShapesArePassesOfTheirOwn) {
  Training captured(true), plain(false);
  for (int i = 0; i < 20; ++i) {
    const int64_t samples = i % 3 == 2 ? 5 : 8;
    EXPECT_EQ(captured.step(samples), plain.step(samples)) << i;
  }
  EXPECT_GT(captured.passes().replays(), 20);
}

TEST(CapturedPasses, WhatTheHostWaitsForIsNotCaptured) {
  Training captured(true), plain(false);
  captured.looks_at_the_loss = plain.looks_at_the_loss = true;
  EXPECT_EQ(captured.steps(8), plain.steps(8));
  EXPECT_EQ(captured.passes().replays(), 0);
  EXPECT_THAT(captured.passes().refusal(), testing::HasSubstr("the host waits for"));
}

TEST(CapturedPasses, IndicesAreCheckedInEveryPass) {
  Training captured(true), plain(false);
  EXPECT_EQ(captured.steps(8), plain.steps(8));
  captured.largest_label = plain.largest_label = 4;
  EXPECT_THROW(captured.step(), Error);
  EXPECT_THROW(plain.step(), Error);
  captured.largest_label = plain.largest_label = 2;
  const int64_t before = captured.passes().replays();
  EXPECT_EQ(captured.steps(3), plain.steps(3));
  EXPECT_EQ(captured.passes().replays(), before + 6);
}

TEST(CapturedPasses, MemoryOfTheirOwnIsNotOthers) {
  Training captured(true), plain(false);
  captured.steps(6);
  plain.steps(6);
  std::vector<Array> others;
  for (int64_t size = 1; size < 20000; size = size * 5 / 4 + 1) {
    for (int i = 0; i < 8; ++i) {
      others.push_back(Array::full({size}, static_cast<double>(size), DType::f32, test::device()));
    }
  }
  EXPECT_EQ(captured.steps(3), plain.steps(3));
  for (const Array& other : others) {
    EXPECT_THAT(other.to_vector<float>(), testing::Each(static_cast<float>(other.elements())));
  }
}

TEST(CapturedPasses, GiveTheirMemoryBack) {
  Backend& backend = backend_of(test::device());
  backend.trim();
  const int64_t before = backend.statistics().reserved_bytes;
  {
    Training captured(true);
    captured.steps(6);
    EXPECT_GT(captured.passes().replays(), 0);
    captured.passes().refuse("its memory is wanted");
    EXPECT_EQ(captured.steps(6).size(), 6u);
  }
  backend.trim();
  EXPECT_EQ(backend.statistics().reserved_bytes, before);
}

TEST(CapturedPasses, CallTheHooksOfLeavesWithEachReplay) {
  Training captured(true);
  std::vector<std::string> fired, expected;
  const std::vector<nn::NamedParameter> parameters = captured.net().named_parameters();
  for (const auto& [name, parameter] : parameters) {
    parameter.leaf().set_hook([&fired, name = name] { fired.push_back(name); });
  }
  captured.step();
  expected = fired;
  EXPECT_EQ(expected.size(), 2 * parameters.size());
  for (int i = 0; i < 7; ++i) {
    fired.clear();
    captured.step();
    EXPECT_EQ(fired, expected) << i;
  }
  EXPECT_GT(captured.passes().replays(), 0);
  for (const auto& [name, parameter] : parameters) {
    EXPECT_TRUE(parameter.leaf().has_gradient()) << name;
    parameter.leaf().set_hook({});
  }
}

// The place that a hook finds is its own, or that of the next one that has one.
TEST(CapturedPasses, MarkedHooksKnowTheirPlace) {
  Training captured(true);
  const std::vector<nn::NamedParameter> parameters = captured.net().named_parameters();
  std::vector<std::string> order;  // in which they fire
  std::vector<const Mark*> places;
  for (const auto& [name, parameter] : parameters) {
    parameter.leaf().set_hook([&, name = name] {
      order.push_back(name);
      const Replay* replay = context().replay;
      places.push_back(replay == nullptr ? nullptr : replay->reached().get());
    });
  }
  captured.step();
  EXPECT_THAT(places, testing::Each(nullptr));
  ASSERT_EQ(order.size(), 2 * parameters.size());
  const std::set<std::string> marked{order[1], order[3]};
  for (const auto& [name, parameter] : parameters) {
    parameter.leaf().set_marked(marked.contains(name));
  }
  captured.steps(7);
  ASSERT_GT(captured.passes().replays(), 0);
  places.clear();
  captured.step();
  ASSERT_EQ(places.size(), 2 * parameters.size());
  for (const size_t first : {size_t{0}, parameters.size()}) {
    const auto own = places.begin() + static_cast<std::ptrdiff_t>(first);
    EXPECT_NE(own[1], nullptr);
    EXPECT_EQ(own[0], own[1]);
    EXPECT_NE(own[3], own[1]);
    EXPECT_EQ(own[2], own[3]);
    EXPECT_THAT(std::vector(own + 4, own + static_cast<std::ptrdiff_t>(parameters.size())),
                testing::Each(nullptr));
    for (const size_t i : {size_t{1}, size_t{3}}) {
      backend_of(test::device()).synchronize();
      EXPECT_TRUE(backend_of(test::device()).is_reached(*own[i]));
    }
  }
  EXPECT_EQ(context().replay, nullptr);
  // Other places are another pass.
  const int64_t replays = captured.passes().replays();
  for (const auto& [name, parameter] : parameters) parameter.leaf().set_marked(false);
  places.clear();
  captured.step();
  EXPECT_THAT(places, testing::Each(nullptr));
  EXPECT_EQ(captured.passes().replays(), replays + 2);
  for (const auto& [name, parameter] : parameters) parameter.leaf().set_hook({});
}

TEST(CapturedPasses, WhatLoadComputesLiesElsewhereEachTime) {
  nn::Linear layer(3, 2);
  layer.place({.device = test::device()});
  CapturedPasses passes(layer, backend_of(test::device()));
  Tensor x;
  for (int i = 0; i < 12; ++i) {
    passes.run(
        0, 1,
        [&] {
          x = Tensor(Array::full({4, 3}, i, DType::f32, test::device()));
        },
        [&] { return sum(layer(x)); });
  }
  EXPECT_EQ(passes.replays(), 0);
  EXPECT_THAT(passes.refusal(), testing::HasSubstr("batches keep bringing arrays"));
}

TEST(CapturedPasses, OnTheCpuNothingIsCaptured) {
  nn::Linear layer(3, 2);
  layer.place({});
  CapturedPasses passes(layer, backend_of({}));
  EXPECT_NE(passes.refusal(), "");
  Tensor x;
  for (int i = 0; i < 5; ++i) {
    const Array loss = passes.run(
        0, 2,
        [&] {
          x = test::values({4, 3}, DType::f32, -1, 1);
        },
        [&] { return sum(layer(x)); });
    EXPECT_TRUE(std::isfinite(loss.item()));
  }
  EXPECT_EQ(layer.bias.grad().value().to_vector<float>(), (std::vector<float>{40, 40}));
}

}  // namespace
}  // namespace lockstep
