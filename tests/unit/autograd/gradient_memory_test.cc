// Whose memory a leaf's gradient is.

#include <gtest/gtest.h>

#include "lockstep/autograd/ops.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/backend.h"
#include "support/gradient_check.h"

namespace lockstep {
namespace {

using testing::random_array;

Tensor variable(Shape shape, uint64_t seed = 1) {
  return Tensor::variable(random_array(shape, seed));
}

Tensor ones_of(Shape shape) { return Array::full(shape, 1, DType::f64); }

void scale(Tensor values, double factor) {
  const NoGrad no_grad;
  values *= factor;
}

std::vector<double> values_of(const Tensor& x) { return x.to_vector<double>(); }

// Of arrays that are not so small that they lie beside their storage.
int64_t allocations() { return backend_of({}).statistics().allocations; }

TEST(GradientMemory, IsNotTheCallers) {
  const Tensor x = variable({3}), root = variable({3}), seed = ones_of({3});
  (x + 0.0).backward(seed);
  root.backward(seed);
  scale(seed, 5);
  EXPECT_EQ(values_of(x.grad()), std::vector<double>(3, 1));
  EXPECT_EQ(values_of(root.grad()), std::vector<double>(3, 1));
  scale(x.grad(), 3);
  EXPECT_EQ(values_of(seed), std::vector<double>(3, 5));
}

TEST(GradientMemory, IsNotAnotherLeafs) {
  const Tensor a = variable({3}), b = variable({3}), c = variable({3});
  (a + b + reshape(c, {3})).backward(ones_of({3}));
  scale(a.grad(), 0.5);
  EXPECT_EQ(values_of(b.grad()), std::vector<double>(3, 1));
  EXPECT_EQ(values_of(c.grad()), std::vector<double>(3, 1));
}

TEST(GradientMemory, IsNotAllOfWhatCameForSeveralLeaves) {
  const Tensor a = variable({300}), b = variable({300});
  sum(square(cat({a, b}, 0))).backward();
  for (const Tensor* x : {&a, &b}) {
    const Array& gradient = static_cast<Leaf&>(*x->node()).gradient();
    EXPECT_EQ(gradient.storage()->bytes(), gradient.bytes());
  }
}

TEST(GradientMemory, IsNotWhatAHookOrAnIntermediateTensorKept) {
  const Tensor x = variable({3});
  const Tensor y = x + 0.0;
  Tensor seen;
  y.retain_grad();
  x.register_hook([&](const Tensor& gradient) { seen = gradient; });
  y.backward(ones_of({3}));
  scale(x.grad(), 7);
  EXPECT_EQ(values_of(y.grad()), std::vector<double>(3, 1));
  EXPECT_EQ(values_of(seen), std::vector<double>(3, 1));
}

// An optimizer may step, a data-parallel hook may scale, as soon as the gradient is complete.
TEST(GradientMemory, IsItsOwnWhenTheLeafsHookFires) {
  const Tensor a = variable({3}), b = variable({3});
  for (const Tensor* x : {&a, &b}) {
    Leaf& leaf = static_cast<Leaf&>(*x->node());
    leaf.set_hook([&leaf] { scale(leaf.gradient(), 0.5); });
  }
  const Tensor seed = ones_of({3});
  (a + b).backward(seed);
  EXPECT_EQ(values_of(a.grad()), std::vector<double>(3, 0.5));
  EXPECT_EQ(values_of(b.grad()), std::vector<double>(3, 0.5));
  EXPECT_EQ(values_of(seed), std::vector<double>(3, 1));
}

TEST(GradientMemory, IsItsOwnAfterANestedPass) {
  const Tensor x = variable({3}), inner = variable({3}), seed = ones_of({3});
  const Tensor y = record({"outer"}, kernels::copy(x.value()), {&x},
                          [inner, seed](const Tensor& dy, Gradients& out) {
                            context().gradients = true;
                            const Tensor copy = inner + 0.0;
                            context().gradients = false;
                            copy.backward(seed);
                            out.add(0, dy);
                          });
  sum(y).backward();
  scale(seed, 5);
  EXPECT_EQ(values_of(inner.grad()), std::vector<double>(3, 1));
}

// The usual case: what a closure made is kept where it is.
TEST(GradientMemory, NothingIsCopiedThatTheLeafAloneHolds) {
  const Tensor x = variable({1000}), seed = ones_of({1000});
  const void* made = nullptr;
  const Tensor y =
      record({"doubled"}, kernels::copy(x.value()), {&x}, [&](const Tensor& dy, Gradients& out) {
        out.add(0, [&] {
          const Tensor gradient = dy * 2.0;
          made = gradient.value().data();
          return gradient;
        });
      });
  const int64_t before = allocations();
  y.backward(seed);
  EXPECT_EQ(allocations() - before, 1);
  EXPECT_EQ(x.grad().value().data(), made);
}

TEST(GradientMemory, AWeightsGradientIsMadeOnce) {
  const Tensor x{random_array({4, 300}, 1)}, weight = variable({2, 300}), seed = ones_of({4, 2});
  const Tensor scale = variable({300}), shift = variable({300});
  for (int pass = 0; pass < 2; ++pass) {
    weight.zero_grad();
    const Tensor y = linear(x, weight);
    int64_t before = allocations();
    y.backward(seed);
    EXPECT_EQ(allocations() - before, 1);
    const Tensor normalized = layer_norm(x, {300}, scale, shift);
    scale.zero_grad();
    shift.zero_grad();
    before = allocations();
    normalized.backward(Tensor(x.value()));
    EXPECT_EQ(allocations() - before, 2);
  }
}

// Added to where it is, in later passes too.
TEST(GradientMemory, AccumulatesInPlace) {
  const Tensor x = variable({3});
  sum(x * 2.0).backward();
  const void* first = x.grad().value().data();
  for (int pass = 0; pass < 2; ++pass) sum(x * 2.0).backward();
  EXPECT_EQ(x.grad().value().data(), first);
  EXPECT_EQ(values_of(x.grad()), std::vector<double>(3, 6));
}

}  // namespace
}  // namespace lockstep
