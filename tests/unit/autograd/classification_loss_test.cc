#include <gtest/gtest.h>

#include <functional>
#include <optional>

#include "differentiable_case.h"
#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/loss.h"
#include "lockstep/autograd/ops/shape.h"
#include "lockstep/runtime/backend.h"

// How cross entropy deals with the memory of its logits, which are often the largest of all
// tensors.
namespace lockstep::testing {
namespace {

constexpr int64_t kRows = 24, kClasses = 4099;

Array logits_in(DType dtype) {
  return kernels::copy(kernels::cast(random_array({kRows, kClasses}, 1, -4, 4), dtype));
}

Tensor some_targets(int64_t classes = kClasses) {
  std::vector<int64_t> targets(kRows);
  for (int64_t i = 0; i < kRows; ++i) targets[i] = i % 5 == 2 ? -100 : i * 97 % classes;
  return Array::from(targets, {kRows});
}

// What a pass finds, and whether the logits' gradient lies where the logits were.
struct Pass {
  std::vector<double> loss, gradient;
  bool over_the_logits = false;
};

// Logits are made of a leaf, and the loss of them by `loss_of`.
Pass run(const std::function<Tensor(Tensor)>& loss_of, const BackwardOptions& options = {}) {
  const Tensor x = Tensor::variable(logits_in(DType::f32));
  Pass pass;
  const void* memory = nullptr;
  Tensor loss;
  {
    Tensor logits = x * 2.0;
    memory = logits.value().data();
    logits.register_hook(
        [&](const Tensor& gradient) { pass.over_the_logits = gradient.value().data() == memory; });
    loss = loss_of(std::move(logits));
  }
  loss.backward(options);
  pass.loss = loss.to_vector<double>();
  pass.gradient = x.grad().to_vector<double>();
  return pass;
}

TEST(ClassificationLoss, TheGradientTakesTheLogitsPlaceOnTheirLastUse) {
  const Tensor targets = some_targets();
  const Pass plain = run([&](const Tensor& logits) { return cross_entropy(logits, targets); });
  std::optional<Tensor> held;
  const Pass expected = run([&](const Tensor& logits) {
    held = logits;
    return cross_entropy(logits, targets);
  });
  EXPECT_TRUE(plain.over_the_logits);
  EXPECT_FALSE(expected.over_the_logits);
  EXPECT_EQ(plain.loss, expected.loss);
  EXPECT_EQ(plain.gradient, expected.gradient);
  expect_all_near(*held, Tensor(logits_in(DType::f32)) * 2.0, 0);
}

TEST(ClassificationLoss, AReshapeOfTheLogitsIsNobodyElse) {
  const Tensor targets = some_targets();
  const Pass flat = run([&](const Tensor& logits) {
    return cross_entropy(reshape(reshape(logits, {4, 6, kClasses}), {kRows, kClasses}), targets,
                         {.reduction = Reduction::sum});
  });
  EXPECT_TRUE(flat.over_the_logits);
}

TEST(ClassificationLoss, BackwardNeedsNoSecondMemoryOfTheLogitsSize) {
  const Tensor targets = some_targets();
  Backend& cpu = backend_of({});
  const Tensor x = Tensor::variable(logits_in(DType::f32));
  for (const bool held : {false, true}) {
    x.zero_grad();
    Tensor logits = x * 2.0;
    const Tensor loss = cross_entropy(logits, targets);
    if (!held) logits = Tensor();
    // The leaf's gradient needs as much as the logits, and room for another is not there.
    const auto bytes = static_cast<int64_t>(x.value().bytes());
    cpu.trim();  // what is cached would serve
    cpu.set_limit(cpu.statistics().in_use_bytes + bytes + bytes / 2);
    if (held) {
      EXPECT_THROW(loss.backward(), OutOfMemory);
    } else {
      EXPECT_NO_THROW(loss.backward());
    }
    cpu.set_limit(0);
  }
}

TEST(ClassificationLoss, ARetainedGraphFindsItsLogitsAgain) {
  const Tensor x = Tensor::variable(logits_in(DType::f32));
  const Tensor targets = some_targets();
  const Tensor loss = cross_entropy(x * 2.0, targets);
  loss.backward({.retain_graph = true});
  const auto first = x.grad().to_vector<float>();
  x.zero_grad();
  loss.backward({.retain_graph = true});
  EXPECT_EQ(x.grad().to_vector<float>(), first);
  x.zero_grad();
  loss.backward();
  EXPECT_EQ(x.grad().to_vector<float>(), first);
  EXPECT_THROW(loss.backward(), Error);
}

// Who else reads the logits in the pass finds them, and so does a gradient that is recorded.
TEST(ClassificationLoss, OtherUsesOfTheLogitsSeeTheirValues) {
  const Tensor targets = some_targets();
  const Tensor x = Tensor::variable(logits_in(DType::f64));
  const auto both = [&](bool square_first) {
    x.zero_grad();
    const Tensor logits = x * 2.0;
    Tensor total;
    if (square_first) {
      const Tensor squares = sum(square(logits));
      total = squares + cross_entropy(logits, targets);
    } else {
      const Tensor entropy = cross_entropy(logits, targets);
      total = entropy + sum(square(logits));
    }
    return total;
  };
  const Tensor expected = grad(both(true), x, {.create_graph = true}).detach();
  for (const bool square_first : {true, false}) {
    both(square_first).backward();
    expect_all_near(x.grad(), expected, 1e-13);
  }
}

// Memory that belongs to somebody else, or that rows share, is no place for a gradient.
TEST(ClassificationLoss, BroughtMemoryAndSharedRowsAreLeftAlone) {
  const Array values = logits_in(DType::f32), before = kernels::copy(values);
  const Tensor targets = some_targets();
  {
    Array brought(Storage::adopt({}, values.data(), values.bytes(), [] {}), DType::f32,
                  values.shape(), values.strides(), 0);
    const Tensor loss = cross_entropy(Tensor::variable(std::move(brought)), targets);
    loss.backward();
  }
  EXPECT_EQ(values.to_vector<float>(), before.to_vector<float>());
  const Tensor row = Tensor::variable(values.select(0, 3));
  cross_entropy(expand(row * 1.0, {kRows, kClasses}), targets).backward();
  const Tensor same = Tensor::variable(values.select(0, 3));
  const Tensor copied = contiguous(expand(same * 1.0, {kRows, kClasses}));
  cross_entropy(copied, targets).backward();
  expect_all_near(row.grad(), same.grad(), 1e-6);
}

// Rows that lie apart are read and written where they are.
TEST(ClassificationLoss, RowsOfAWiderArray) {
  const Tensor targets = some_targets(1025);
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    const Array window = logits_in(dtype).narrow(1, 3, 1025);
    const Tensor x = Tensor::variable(window), y = Tensor::variable(kernels::copy(window));
    const Tensor a = cross_entropy(x, targets), b = cross_entropy(y, targets);
    EXPECT_EQ(a.item(), b.item());
    a.backward();
    b.backward();
    EXPECT_EQ(x.grad().to_vector<double>(), y.grad().to_vector<double>());
  }
}

// Under autocast 16-bit logits are read as they are: the loss is that of their f32 values to the
// bit, and so is the gradient, rounded once.
TEST(ClassificationLoss, AutocastConvertsNoLogits) {
  const Tensor targets = some_targets();
  Backend& cpu = backend_of({});
  for (DType dtype : {DType::bf16, DType::f16}) {
    const Tensor low = Tensor::variable(logits_in(dtype));
    const Tensor high = Tensor::variable(kernels::cast(low.value(), DType::f32));
    for (Reduction reduction : {Reduction::mean, Reduction::sum, Reduction::none}) {
      low.zero_grad();
      high.zero_grad();
      Tensor loss;
      {
        const Autocast autocast(dtype);
        cpu.trim();
        cpu.set_limit(cpu.statistics().in_use_bytes + static_cast<int64_t>(low.value().bytes()));
        loss = cross_entropy(low, targets, {.reduction = reduction});
        cpu.set_limit(0);
      }
      const Tensor expected = cross_entropy(high, targets, {.reduction = reduction});
      ASSERT_EQ(loss.dtype(), DType::f32);
      EXPECT_EQ(loss.to_vector<float>(), expected.to_vector<float>());
      sum(loss).backward();
      sum(expected).backward();
      EXPECT_EQ(low.grad().dtype(), dtype);
      EXPECT_EQ(low.grad().to_vector<float>(), to(high.grad(), dtype).to_vector<float>());
      if (reduction != Reduction::mean) continue;
      const Tensor outside = cross_entropy(low, targets);
      EXPECT_EQ(outside.dtype(), dtype);
    }
  }
}

TEST(ClassificationLoss, AutocastComputesTheOtherFormsInF32) {
  const Tensor targets = some_targets();
  const Tensor low(logits_in(DType::bf16)), high = to(low, DType::f32);
  const Tensor weight(kernels::cast(random_array({kClasses}, 2, 0.5, 2), DType::f32));
  const Autocast autocast;
  for (const CrossEntropyOptions& options :
       {CrossEntropyOptions{.weight = weight}, CrossEntropyOptions{.label_smoothing = 0.1}}) {
    const Tensor loss = cross_entropy(low, targets, options);
    EXPECT_EQ(loss.dtype(), DType::f32);
    EXPECT_EQ(loss.item(), cross_entropy(high, targets, options).item());
  }
  EXPECT_EQ(cross_entropy(low, low).dtype(), DType::f32);
}

// The recorded formula of 16-bit logits computes in f32 too.
TEST(ClassificationLoss, ARecordedGradientUnderAutocastIsTheSame) {
  const Tensor targets = some_targets();
  const Tensor low = Tensor::variable(logits_in(DType::bf16));
  Tensor loss;
  {
    const Autocast autocast;
    loss = cross_entropy(low, targets, {.reduction = Reduction::sum});
  }
  const Tensor recorded = grad(loss, low, {.create_graph = true});
  EXPECT_EQ(recorded.dtype(), DType::bf16);
  expect_all_near(recorded.detach(), grad(loss, low), 1e-2);
  EXPECT_EQ(grad(sum(square(recorded)), low).dtype(), DType::bf16);
}

}  // namespace
}  // namespace lockstep::testing
