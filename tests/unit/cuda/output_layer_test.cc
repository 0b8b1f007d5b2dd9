#include <gtest/gtest.h>

#include <optional>

#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/ops.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/ops/index.h"
#include "lockstep/runtime/ops/layout.h"
#include "lockstep/runtime/ops/matmul.h"
#include "lockstep/runtime/ops/rows.h"
#include "support/device_check.h"

// An output layer of an odd number of classes, whose rows lie apart on a GPU, and its loss.
namespace lockstep {
namespace {

using test::device;

constexpr int64_t kClasses = 1027, kWidth = 24, kBatch = 3, kTime = 5;

Tensor leaf(const Array& host, Device where) {
  return Tensor::variable(kernels::to_device(host, where));
}

Array some_targets(Device where) {
  std::vector<int64_t> classes(kBatch * kTime);
  for (size_t i = 0; i < classes.size(); ++i) {
    classes[i] = i % 4 == 1 ? -100 : static_cast<int64_t>(i) * 71 % kClasses;
  }
  return Array::from(classes, {kBatch * kTime}, where);
}

struct Found {
  Array loss, dx, dw, db;
};

// The model's end as examples/04_gpt has it.
Found train(DType dtype, bool autocast_on, bool with_bias, Device where) {
  const DType held = autocast_on ? DType::f32 : dtype;
  const Tensor x = leaf(test::values({kBatch, kTime, kWidth}, held, -1, 1, 1), where);
  const Tensor w = leaf(test::values({kClasses, kWidth}, held, -1, 1, 2), where);
  const Tensor bias = with_bias ? leaf(test::values({kClasses}, held, -1, 1, 3), where) : Tensor();
  std::optional<Autocast> autocast;
  if (autocast_on) autocast.emplace(dtype);
  const Tensor loss = cross_entropy(flatten(linear(x, w, bias), 0, 1), Tensor(some_targets(where)));
  loss.backward();
  return {loss.value(), x.grad().value(), w.grad().value(),
          with_bias ? bias.grad().value() : Array()};
}

TEST(CudaOutputLayer, AnOddNumberOfClassesTrainsAsOnTheCpu) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    for (const bool autocast : {false, true}) {
      if (autocast && size_of(dtype) != 2) continue;
      for (const bool bias : {false, true}) {
        SCOPED_TRACE(::testing::Message() << name_of(dtype) << (autocast ? " autocast" : ""));
        const Found found = train(dtype, autocast, bias, device());
        const Found expected = train(dtype, autocast, bias, {});
        EXPECT_EQ(found.loss.dtype(), autocast ? DType::f32 : dtype);
        test::expect_near(found.loss, expected.loss, test::tolerance(dtype, 16));
        test::expect_near(found.dx, expected.dx, test::tolerance(dtype, 32), 0.1);
        test::expect_near(found.dw, expected.dw, test::tolerance(dtype, 32), 0.1);
        if (bias) test::expect_near(found.db, expected.db, test::tolerance(dtype, 32), 0.1);
      }
    }
  }
}

TEST(CudaOutputLayer, RowsOfAnOddSizeBeginOnBoundaries) {
  const auto distance = [](int64_t width, DType dtype) {
    const Array x = Array::zeros({4, 8}, dtype, device());
    return kernels::linear(x, Array::zeros({width, 8}, dtype, device()), {}).strides()[0];
  };
  EXPECT_EQ(distance(50257, DType::bf16), 50304);
  EXPECT_EQ(distance(50257, DType::f32), 50272);
  EXPECT_EQ(distance(50304, DType::bf16), 50304);
  EXPECT_EQ(distance(1004, DType::f32), 1004);
  EXPECT_EQ(distance(1004, DType::f16), 1024);
  EXPECT_EQ(distance(1003, DType::f64), 1003);
  EXPECT_EQ(distance(1003, DType::i64), 1003);
  EXPECT_EQ(distance(511, DType::bf16), 511);
  const Array host = Array::zeros({4, 8}, DType::bf16);
  EXPECT_EQ(kernels::linear(host, Array::zeros({1003, 8}, DType::bf16), {}).strides()[0], 1003);
}

// What a program does with such a result is what it does with any other.
TEST(CudaOutputLayer, AResultWithPaddedRowsIsATensorLikeOthers) {
  const Tensor x(test::on_device(test::values({2, 3, kWidth}, DType::f32, -1, 1, 1)));
  const Tensor w(test::on_device(test::values({kClasses, kWidth}, DType::f32, -1, 1, 2)));
  const Tensor y = linear(x, w), dense = contiguous(y);
  ASSERT_FALSE(y.value().contiguous());
  ASSERT_TRUE(kernels::has_padded_rows(y.value()));
  const Storage* memory = y.value().storage().get();
  EXPECT_EQ(flatten(y, 0, 1).value().storage().get(), memory);
  EXPECT_EQ(reshape(flatten(y, 0, 1), {3, 2, kClasses}).value().storage().get(), memory);
  EXPECT_TRUE(kernels::has_padded_rows(flatten(y, 0, 1).value()));
  EXPECT_FALSE(kernels::has_padded_rows(narrow(y, 2, 0, 901).value()));
  EXPECT_FALSE(kernels::has_padded_rows(narrow(y, 0, 0, 1).value()));
  const auto same = [](const Tensor& a, const Tensor& b) {
    EXPECT_EQ(a.shape(), b.shape());
    EXPECT_EQ(a.to_vector<float>(), b.to_vector<float>());
  };
  same(y, dense);
  same(y.view({-1}), dense.view({-1}));
  same(y.view({6, kClasses}), dense.view({6, kClasses}));
  same(softmax(y), softmax(dense));
  same(relu(y) + y, relu(dense) + dense);
  same(sum(y, {0}), sum(dense, {0}));
  same(argmax(y, -1), argmax(dense, -1));
  same(transpose(y, 1, 2), transpose(dense, 1, 2));
  same(cat({y, y}, 1), cat({dense, dense}, 1));
  same(y.to(Device()), dense.to(Device()));
  same(layer_norm(y, {kClasses}), layer_norm(dense, {kClasses}));
  const Tensor v(test::on_device(test::values({7, kClasses}, DType::f32, -1, 1, 3)));
  same(linear(y, v), linear(dense, v));
  same(matmul(y, v.mT()), matmul(dense, v.mT()));
}

// A product with a matrix is laid out so too, the gradient of a weight as any other.
TEST(CudaOutputLayer, ProductsWithAMatrix) {
  const Tensor x = leaf(test::values({2, 3, kWidth}, DType::bf16, -1, 1, 1), device());
  const Tensor w = leaf(test::values({kWidth, kClasses}, DType::bf16, -1, 1, 2), device());
  const Tensor y = matmul(x, w);
  EXPECT_TRUE(kernels::has_padded_rows(y.value()));
  EXPECT_TRUE(kernels::has_padded_rows(matmul(select(x, 0, 0), w).value()));
  EXPECT_TRUE(matmul(x, expand(w, {2, kWidth, kClasses})).value().contiguous());
  sum(y * y).backward();
  EXPECT_TRUE(w.grad().value().contiguous());
  const Tensor host_x = leaf(x.value().to_host(), {}), host_w = leaf(w.value().to_host(), {});
  const Tensor host_y = matmul(host_x, host_w);
  sum(host_y * host_y).backward();
  test::expect_near(y.value(), host_y.value(), test::tolerance(DType::bf16));
  test::expect_near(w.grad().value(), host_w.grad().value(), test::tolerance(DType::bf16, 16), 4);
  test::expect_near(x.grad().value(), host_x.grad().value(), test::tolerance(DType::bf16, 16), 64);
}

// The host remembers what it brought: a look at the device would find a target of -1, which is
// neither a class nor to be ignored.
TEST(CudaOutputLayer, TargetsFromTheHostAreNotLookedAt) {
  constexpr int64_t kRows = 4, kFew = 10;
  const Array logits = Array::zeros({kRows + 1, kFew}, DType::f32, device()).narrow(0, 1, kRows);
  for (const int64_t ignore : {int64_t{-100}, int64_t{255}}) {
    const Array targets = Array::from<int64_t>({3, ignore, 9, ignore}, {kRows}, device());
    EXPECT_TRUE(kernels::known_within(targets, kFew, ignore));
    EXPECT_FALSE(kernels::known_within(targets, kFew));
    EXPECT_FALSE(kernels::known_within(targets, kFew - 1, ignore));
    test::device_kernels().fill(targets.view(), -1);  // behind the storage's back
    EXPECT_NO_THROW(kernels::cross_entropy(logits, targets, ignore));
    kernels::fill(targets, -1);
    EXPECT_THROW(kernels::cross_entropy(logits, targets, ignore), Error);
    kernels::fill(targets, static_cast<double>(ignore));
    EXPECT_NO_THROW(kernels::cross_entropy(logits, targets, ignore));
  }
  const auto known = [](std::initializer_list<int64_t> values, int64_t count, int64_t except) {
    const Shape shape{static_cast<int64_t>(values.size())};
    return kernels::known_within(Array::from(values, shape, device()), count, except);
  };
  EXPECT_TRUE(known({-100, -100}, 5, -100));
  EXPECT_TRUE(known({-100, 4}, 5, -100));
  EXPECT_TRUE(known({4}, 5, -100));
  EXPECT_FALSE(known({-100, 5}, 5, -100));
  EXPECT_FALSE(known({-101, -100, 4}, 5, -100));
  EXPECT_FALSE(known({-100, -2, 4}, 5, -100));
  EXPECT_FALSE(known({4, 200, 255}, 5, 255));
}

}  // namespace
}  // namespace lockstep
