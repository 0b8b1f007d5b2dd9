// As PyTorch 2.15 prints, but for the names of dtypes.
#include "lockstep/autograd/print.h"

#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

#include "lockstep/autograd/ops.h"

namespace lockstep {
namespace {

TEST(Print, FloatingValues) {
  EXPECT_EQ(to_string(tensor({{1.0, 2.0}, {3.0, 4.0}})), "tensor([[1., 2.],\n        [3., 4.]])");
  EXPECT_EQ(to_string(tensor({1.5, -2.0, 0.0})), "tensor([ 1.5000, -2.0000,  0.0000])");
  EXPECT_EQ(to_string(tensor(2.5)), "tensor(2.5000)");
  EXPECT_EQ(to_string(tensor({0.0, -0.0})), "tensor([0., -0.])");
  EXPECT_EQ(to_string(arange(27) * 1.0),
            "tensor([ 0.,  1.,  2.,  3.,  4.,  5.,  6.,  7.,  8.,  9., 10., 11., 12., 13.,\n"
            "        14., 15., 16., 17., 18., 19., 20., 21., 22., 23., 24., 25., 26.])");
}

TEST(Print, ScientificWhereSizesDiffer) {
  EXPECT_EQ(to_string(tensor({1e-5, 1.0})), "tensor([1.0000e-05, 1.0000e+00])");
  EXPECT_EQ(to_string(tensor({1.0, 1001.0})), "tensor([1.0000e+00, 1.0010e+03])");
  EXPECT_EQ(to_string(tensor({1.0, 1000.0})), "tensor([   1., 1000.])");
  EXPECT_EQ(to_string(tensor({1e9})), "tensor([1.0000e+09])");
}

TEST(Print, NanAndInfinity) {
  EXPECT_EQ(to_string(tensor({NAN, INFINITY, -INFINITY, 1.0F})), "tensor([nan, inf, -inf, 1.])");
  EXPECT_EQ(to_string(tensor({double{NAN}, 1.5})), "tensor([   nan, 1.5000])");
  EXPECT_EQ(to_string(tensor({1e-10, 1.0, double{NAN}})),
            "tensor([1.0000e-10, 1.0000e+00,        nan])");
  EXPECT_EQ(to_string(tensor({NAN, -INFINITY})), "tensor([nan, -inf])");
}

TEST(Print, IntegersAndBool) {
  EXPECT_EQ(to_string(tensor(3)), "tensor(3)");
  EXPECT_EQ(to_string(tensor({true, false})), "tensor([ True, False])");
  EXPECT_EQ(to_string(tensor({{-1, 20}, {300, 4}})), "tensor([[ -1,  20],\n        [300,   4]])");
  EXPECT_EQ(to_string(full({1}, INT64_MAX)), "tensor([9223372036854775807])");
}

TEST(Print, EmptyTensors) {
  EXPECT_EQ(to_string(tensor({})), "tensor([])");
  EXPECT_EQ(to_string(zeros({0, 3})), "tensor([], size=(0, 3))");
  EXPECT_EQ(to_string(zeros({0}, {.dtype = DType::i64})), "tensor([], dtype=i64)");
  EXPECT_EQ(to_string(Tensor()), "tensor()");
}

TEST(Print, EdgesOfLargeTensors) {
  EXPECT_EQ(to_string(arange(1001)), "tensor([   0,    1,    2,  ...,  998,  999, 1000])");
  EXPECT_EQ(to_string(reshape(arange(2002), {2, 1001})),
            "tensor([[   0,    1,    2,  ...,  998,  999, 1000],\n"
            "        [1001, 1002, 1003,  ..., 1999, 2000, 2001]])");
  EXPECT_EQ(to_string(reshape(arange(1400), {700, 2})),
            "tensor([[   0,    1],\n        [   2,    3],\n        [   4,    5],\n        ...,\n"
            "        [1394, 1395],\n        [1396, 1397],\n        [1398, 1399]])");
  EXPECT_EQ(to_string(reshape(arange(24), {2, 3, 4}) * 1.0),
            "tensor([[[ 0.,  1.,  2.,  3.],\n         [ 4.,  5.,  6.,  7.],\n"
            "         [ 8.,  9., 10., 11.]],\n\n        [[12., 13., 14., 15.],\n"
            "         [16., 17., 18., 19.],\n         [20., 21., 22., 23.]]])");
}

TEST(Print, Suffixes) {
  EXPECT_EQ(to_string(tensor({1.25}, {.dtype = DType::f64})), "tensor([1.2500], dtype=f64)");
  EXPECT_EQ(to_string(tensor({1.5}, {.dtype = DType::bf16})), "tensor([1.5000], dtype=bf16)");
  const Tensor x = tensor({1.0, 2.0}, {.requires_grad = true});
  EXPECT_EQ(to_string(x), "tensor([1., 2.], requires_grad=True)");
  EXPECT_EQ(to_string(neg(x)), "tensor([-1., -2.], grad_fn=<neg>)");
  EXPECT_EQ(to_string(arange(0.0, 14.0, 1, {.requires_grad = true})),
            "tensor([ 0.,  1.,  2.,  3.,  4.,  5.,  6.,  7.,  8.,  9., 10., 11., 12., 13.],\n"
            "       requires_grad=True)");
}

TEST(Print, StridedTensorsToAStream) {
  std::ostringstream stream;
  stream << tensor({{1, 2}, {3, 4}}).mT();
  EXPECT_EQ(stream.str(), "tensor([[1, 3],\n        [2, 4]])");
}

}  // namespace
}  // namespace lockstep
