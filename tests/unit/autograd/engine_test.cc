#include <gtest/gtest.h>

#include "lockstep/autograd/ops.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "support/gradient_check.h"

namespace lockstep {
namespace {

using testing::random_array;

Tensor variable(double value) { return Tensor::variable(Array::full({}, value, DType::f64)); }

std::string message_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Engine, DerivativeOfAPolynomial) {
  const Tensor x = variable(3);
  (x * x + 2.0 * x + 1.0).backward();
  EXPECT_DOUBLE_EQ(x.grad().item(), 8);
}

TEST(Engine, ThirdDerivativeOfTanhCubed) {
  const Tensor x = variable(0.4);
  const Tensor t = tanh(x);
  const Tensor first = grad(t * t * t, x, {.create_graph = true});
  const Tensor second = grad(first, x, {.create_graph = true});
  const Tensor third = grad(second, x);
  // With t' = 1 - t^2: f' = 3t^2(1-t^2), f'' = 6t(1-t^2)(1-2t^2), f''' = 6(1-t^2)(1-9t^2+10t^4)
  // from d/dt of f'' times (1-t^2): 6 - 54 t^2 + 60 t^4.
  const double v = std::tanh(0.4), s = 1 - v * v;
  EXPECT_NEAR(first.item(), 3 * v * v * s, 1e-14);
  EXPECT_NEAR(second.item(), 6 * v * s * (1 - 2 * v * v), 1e-14);
  EXPECT_NEAR(third.item(), s * (6 - 54 * v * v + 60 * v * v * v * v), 1e-13);
}

TEST(Engine, HessianVectorProductOfANetwork) {
  const Array x = random_array({4, 3}, 1);
  const std::vector<Array> weights{random_array({5, 3}, 2), random_array({5}, 3),
                                   random_array({2, 5}, 4)};
  testing::expect_second_gradients(
      [&](const std::vector<Tensor>& w) {
        const Tensor hidden = layer_norm(gelu(linear(Tensor(x), w[0], w[1])), {5});
        const Array targets = Array::from<int64_t>({0, 1, 1, 0}, {4});
        return cross_entropy(linear(tanh(hidden), w[2]), Tensor(targets));
      },
      weights);
}

TEST(Engine, AccumulatesOverBackwardPasses) {
  const Tensor x = variable(2);
  (x * x).backward();
  (x * 3.0).backward();
  EXPECT_DOUBLE_EQ(x.grad().item(), 7);
  x.zero_grad();
  EXPECT_FALSE(x.grad());
  (x * 3.0).backward();
  EXPECT_DOUBLE_EQ(x.grad().item(), 3);
}

// An expanded gradient has stride 0: adding to it in place would add once for all elements.
TEST(Engine, ExpandedGradientAccumulatedTwice) {
  const Tensor x = Tensor::variable(random_array({2, 3}, 1));
  sum(x).backward();
  sum(x).backward();
  for (double g : x.grad().to_vector<double>()) EXPECT_DOUBLE_EQ(g, 2);
  const Tensor y = x * 1.0;
  (sum(y) + sum(y)).backward();
  for (double g : x.grad().to_vector<double>()) EXPECT_DOUBLE_EQ(g, 4);
}

// The gradient given by the caller is not to be changed, however it flows.
TEST(Engine, SeedIsLeftAlone) {
  const Tensor x = Tensor::variable(random_array({3}, 1));
  const Tensor seed{random_array({3}, 2)};
  const auto before = seed.to_vector<double>();
  const Tensor y = x + 0.0;
  (y + y + x).backward(seed);
  EXPECT_EQ(seed.to_vector<double>(), before);
  EXPECT_DOUBLE_EQ(x.grad().to_vector<double>()[0], 3 * before[0]);
}

TEST(Engine, GradientsGoIntoGivenMemory) {
  const Tensor w = Tensor::variable(random_array({2, 3}, 1));
  const Array memory = Array::full({2, 3}, 77, DType::f64);
  static_cast<Leaf&>(*w.node()).seat_gradient(memory);
  const Tensor x{random_array({4, 3}, 2)};
  for (int pass = 0; pass < 2; ++pass) {  // the first write of a step overwrites what is there
    w.zero_grad();
    sum(linear(x, w)).backward();
    sum(linear(x, w) * 2.0).backward();
    EXPECT_EQ(w.grad().value().data(), memory.data());
    const double column = sum(narrow(x, 1, 0, 1)).item();
    EXPECT_NEAR(memory.data<double>()[0], 3 * column, 1e-12);
  }
}

// Both offers of memory would be of the same slice.
TEST(Engine, OneInputTwiceWithGivenMemory) {
  const Tensor x{random_array({4}, 1)};
  std::vector<std::vector<double>> found;
  for (const bool seated : {false, true}) {
    const Tensor w = Tensor::variable(random_array({4}, 2));
    if (seated) {
      static_cast<Leaf&>(*w.node()).seat_gradient(Array::full({4}, 9, DType::f64));
    }
    sum(layer_norm(x, {4}, w, w)).backward();
    found.push_back(w.grad().to_vector<double>());
  }
  EXPECT_EQ(found[0], found[1]);
}

// An image's gradient that lies channels last is offered to the op whose gradient comes next.
TEST(Engine, OpsAddToAChannelsLastGradient) {
  const Tensor image = channels_last(Tensor(random_array({2, 3, 4, 5}, 1)));
  const Tensor seed = channels_last(Tensor(random_array({2, 3, 4, 5}, 2)));
  const Tensor matrix(random_array({5, 5}, 3)), row(random_array({5}, 4));
  const Tensor filters(random_array({3, 3, 1, 1}, 5)), channels(random_array({3}, 6));
  const Tensor places(Array::from<int64_t>({2, 0, 2}, {3}));
  const std::pair<const char*, std::function<Tensor(const Tensor&)>> ops[] = {
      {"tanh", [&](const Tensor& x) { return tanh(x); }},
      {"mul", [&](const Tensor& x) { return x * row; }},
      {"matmul", [&](const Tensor& x) { return matmul(x, matrix); }},
      {"matmul of many", [&](const Tensor& x) { return matmul(x, x.mT()); }},
      {"linear", [&](const Tensor& x) { return linear(x, matrix); }},
      {"softmax", [&](const Tensor& x) { return softmax(x, -1); }},
      {"layer_norm", [&](const Tensor& x) { return layer_norm(x, {5}, row, row); }},
      {"rms_norm", [&](const Tensor& x) { return rms_norm(x, {5}, row); }},
      {"dropout", [&](const Tensor& x) { return dropout(x, 0.0); }},
      {"narrow", [&](const Tensor& x) { return narrow(x, 2, 1, 2); }},
      {"index_select", [&](const Tensor& x) { return index_select(x, 1, places); }},
      {"expand",
       [&](const Tensor& x) {
         return expand(x, {2, 2, 3, 4, 5}) * 1.0;
       }},
      {"sum", [&](const Tensor& x) { return sum(x, {2}); }},
      {"transpose", [&](const Tensor& x) { return transpose(x, 1, 2); }},
      {"reshape",
       [&](const Tensor& x) {
         return reshape(x, {6, 20});
       }},
      {"to", [&](const Tensor& x) { return to(to(x, DType::f32), DType::f64); }},
      {"conv2d", [&](const Tensor& x) { return conv2d(x, filters); }},
      {"max_pool2d", [&](const Tensor& x) { return max_pool2d(x, {.kernel_size = {2}}); }},
      {"batch_norm",
       [&](const Tensor& x) {
         return batch_norm(x, Array::zeros({3}, DType::f64), Array::full({3}, 1, DType::f64),
                           channels, channels, {.training = true});
       }},
      {"group_norm", [&](const Tensor& x) { return group_norm(x, 3, channels, channels); }},
  };
  for (const auto& [name, op] : ops) {
    SCOPED_TRACE(name);
    const Tensor x = Tensor::variable(image.value());
    const Tensor middle = x * 1.0;
    const Tensor y = op(middle);
    const Tensor weights(random_array(y.shape(), 7));
    const Tensor newest = middle * 3.0;  // whose gradient comes first
    backward(std::vector{y, newest}, std::vector{weights, seed});
    const Tensor alone = Tensor::variable(image.value());
    op(alone).backward(weights);
    const auto found = x.grad().to_vector<double>();
    const auto expected = (alone.grad() + seed * 3.0).to_vector<double>();
    for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], 1e-6);
  }
}

TEST(Engine, HookFiresOnceAfterTheLastConsumer) {
  const Tensor x = variable(2);
  Leaf& leaf = static_cast<Leaf&>(*x.node());
  std::vector<double> seen;
  leaf.set_hook([&] { seen.push_back(leaf.gradient().item()); });
  (x * x + x * 3.0 + x).backward();
  EXPECT_EQ(seen, std::vector<double>{8});
}

TEST(Engine, HookIsSilentInANestedRunAndForAnUnusedLeaf) {
  const Tensor x = variable(2), unused = variable(1);
  int fired = 0;
  static_cast<Leaf&>(*x.node()).set_hook([&] { ++fired; });
  static_cast<Leaf&>(*unused.node()).set_hook([&] { fired += 100; });
  const Tensor y =
      record({"outer"}, kernels::copy(x.value()), {&x}, [x](const Tensor& dy, Gradients& out) {
        out.add(0, [&] {
          context().gradients = true;
          const Tensor inner = grad(x * x, x);
          (x * 5.0).backward();  // a nested pass that reaches the leaf itself
          context().gradients = false;
          return dy * inner;
        });
      });
  (y + x).backward();
  EXPECT_EQ(fired, 1);
  EXPECT_DOUBLE_EQ(x.grad().item(), 4 + 1 + 5);
}

TEST(Engine, GradientOfAnIntermediateTensor) {
  const Tensor x = variable(2);
  const Tensor y = x * x;
  EXPECT_DOUBLE_EQ(grad(y * y, y).item(), 8);
  EXPECT_FALSE(x.grad());
}

TEST(Engine, ReadyOrderIsNewestFirst) {
  std::vector<int> order;
  const auto probe = [&](const Tensor& in, int id) {
    return record({"probe"}, in.value(), {&in}, [&order, id](const Tensor& dy, Gradients& out) {
      order.push_back(id);
      out.add(0, dy);
    });
  };
  const Tensor x = variable(1);
  const Tensor a = probe(x, 1), b = probe(x, 2), c = probe(a, 3), d = probe(b, 4);
  (c + d).backward();
  EXPECT_EQ(order, (std::vector<int>{4, 3, 2, 1}));
}

TEST(Engine, DeepGraphsDoNotRecurse) {
  const Tensor x = variable(1);
  Tensor y = x;
  for (int i = 0; i < 200000; ++i) y = y + 0.0;
  y.backward();
  EXPECT_DOUBLE_EQ(x.grad().item(), 1);
  Tensor dropped = x;  // never run backward: freed by its destructor alone
  for (int i = 0; i < 200000; ++i) dropped = dropped + 0.0;
}

TEST(Engine, ClosuresAreFreedAsBackwardProceeds) {
  const Tensor x = Tensor::variable(random_array({1000}, 1));
  const Ref<Storage> kept = [&] {
    const Tensor hidden = square(x);
    const Ref<Storage> storage = hidden.value().storage();
    sum(square(hidden)).backward();
    return storage;
  }();
  EXPECT_TRUE(kept->unique());
}

TEST(EngineErrors, BackwardTwice) {
  const Tensor x = variable(2);
  const Tensor y = tanh(x);
  y.backward();
  EXPECT_NE(message_of([&] { y.backward(); }).find("tanh: backward through it a second time"),
            std::string::npos);
  const Tensor z = tanh(x);
  z.backward({.retain_graph = true});
  z.backward();
}

TEST(EngineErrors, NonScalarWithoutGradient) {
  const Tensor x = Tensor::variable(random_array({2, 3}, 1));
  EXPECT_NE(message_of([&] { (x * x).backward(); }).find("[2, 3]"), std::string::npos);
}

TEST(EngineErrors, ValueChangedSinceItWasSaved) {
  const Tensor x = Tensor::variable(random_array({3}, 1));
  const Tensor y = sum(x * x);
  kernels::fill(x.value(), 1);
  const std::string message = message_of([&] { y.backward(); });
  EXPECT_NE(message.find("backward of mul"), std::string::npos) << message;
  EXPECT_NE(message.find("changed in place"), std::string::npos) << message;
}

TEST(EngineErrors, ConstantsAndSeeds) {
  const Tensor x = variable(2);
  EXPECT_NE(message_of([&] { x.detach().backward(); }).find("constant"), std::string::npos);
  EXPECT_NE(message_of([&] { (x * x).backward(Tensor(random_array({2}, 1))); }).find("shape"),
            std::string::npos);
  EXPECT_NE(message_of([&] { grad(x * 2.0, variable(1)); }).find("does not influence"),
            std::string::npos);
  EXPECT_NE(message_of([&] { x.array(); }).find("detach"), std::string::npos);
}

// After an error in a closure the graph's nodes are usable again.
TEST(EngineErrors, AFailedPassLeavesNoState) {
  const Tensor x = variable(2);
  bool fail_now = true;
  const Tensor middle = record({"fragile"}, x.value(), {&x}, [&](const Tensor& dy, Gradients& out) {
    if (fail_now) fail({"broken"});
    out.add(0, dy);
  });
  const Tensor y = middle * 2.0;
  EXPECT_EQ(message_of([&] { y.backward({.retain_graph = true}); }), "backward of fragile: broken");
  fail_now = false;
  y.backward();
  EXPECT_DOUBLE_EQ(x.grad().item(), 2);
}

struct OwnKind : Error {
  using Error::Error;
};

// Who catches it knows it by its type: a collective that failed, memory that ran out.
TEST(EngineErrors, OneOfItsOwnKindStaysOne) {
  const Tensor x = Tensor::variable(Array::full({2}, 1, DType::f64));
  const Tensor y =
      record({"fragile"}, kernels::copy(x.value()), {&x},
             [](const Tensor&, Gradients&) { throw OwnKind("broken in its own way"); });
  try {
    y.backward(Tensor(Array::full({2}, 1, DType::f64)));
    FAIL() << "no error";
  } catch (const OwnKind& error) {
    EXPECT_STREQ(error.what(), "broken in its own way");
  }
}

TEST(NoGradMode, NothingIsRecorded) {
  const Tensor x = variable(2);
  {
    const NoGrad no_grad;
    EXPECT_FALSE((x * x).requires_grad());
    EXPECT_DOUBLE_EQ(x.array().item(), 2);
  }
  EXPECT_TRUE((x * x).requires_grad());
  EXPECT_FALSE(x.detach().requires_grad());
  EXPECT_FALSE((x > Tensor(1.0)).requires_grad());
}

TEST(Trace, SeesEveryOpUnderNoGradToo) {
  struct Names : Tracer {
    std::vector<std::string> seen;
    void op(const OpDescription& op, std::span<const Array>, const Array&) override {
      seen.push_back(op.name);
    }
  } names;
  context().tracer = &names;
  const Tensor x = variable(2);
  const Tensor y = tanh(x) * x;
  {
    const NoGrad no_grad;
    sum(where(y > Tensor(0.0), y, Tensor(0.0)));
  }
  context().tracer = nullptr;
  EXPECT_EQ(names.seen.front(), "tanh");
  EXPECT_EQ(names.seen.back(), "sum");
}

}  // namespace
}  // namespace lockstep
