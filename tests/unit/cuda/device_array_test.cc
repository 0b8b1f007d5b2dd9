#include <gmock/gmock.h>

#include "lockstep/autograd/ops.h"
#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/context.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/ops/index.h"
#include "support/device_check.h"

// Values that go between the devices.
namespace lockstep {
namespace {

using test::device;

TEST(DeviceArray, ATensorGoesThereAndBackAndItsGradientToo) {
  const Array values = test::values({3, 5}, DType::f64, -1, 1);
  const Tensor x = Tensor::variable(values);
  const Tensor there = transpose(x, 0, 1).to(device());
  EXPECT_EQ(there.device(), device());
  EXPECT_EQ(there.to(device()).value().storage(), there.value().storage());
  const Tensor back = (there * 2.0).to(Device());
  EXPECT_EQ(back.to_vector<double>(), (transpose(x, 0, 1) * 2.0).to_vector<double>());
  sum(back * back).backward();
  EXPECT_EQ(x.grad().device(), Device());
  EXPECT_EQ(x.grad().to_vector<double>(), (x.detach() * 8.0).to_vector<double>());
}

TEST(DeviceArray, BetweenTwoDevices) {
  const Array host = test::values({100}, DType::f32, -1, 1);
  const Array first = kernels::to_device(host, device());
  EXPECT_EQ(kernels::to_device(first, device()).storage(), first.storage());
  EXPECT_EQ(first.to_host().to_vector<float>(), host.to_vector<float>());
  EXPECT_EQ(first.narrow(0, 1, 30, 3).to_vector<double>(),
            host.narrow(0, 1, 30, 3).to_vector<double>());
  EXPECT_EQ(first.select(0, 7).item(), host.select(0, 7).item());
}

// Through pinned memory, piece by piece.
TEST(DeviceArray, LargeArraysArriveWhole) {
  for (int64_t bytes : {(1 << 20) - 1, 1 << 20, 4 << 20, (8 << 20) + 1, (13 << 20) + 77}) {
    const Array host = test::values({bytes}, DType::u8, 0, 250);
    const Array there = kernels::to_device(host, device());
    const std::vector<uint8_t> expected = host.to_vector<uint8_t>();
    kernels::fill(host, 255);  // what has been read may change
    EXPECT_EQ(there.to_host().to_vector<uint8_t>(), expected) << bytes;
  }
}

// Marks stand in the order of the work, and what lies between two takes time.
TEST(DeviceArray, MarksAreReachedInTheirOrder) {
  Backend& backend = backend_of(device());
  const std::unique_ptr<Mark> first = backend.mark();
  const Array x = Array::full({1 << 16}, 1, DType::f32, device());
  kernels::copy(x);
  const std::unique_ptr<Mark> second = backend.mark();
  backend.synchronize();
  ASSERT_TRUE(backend.is_reached(*first) && backend.is_reached(*second));
  EXPECT_GT(backend.seconds_between(*first, *second), 0);
  EXPECT_LT(backend.seconds_between(*first, *second), 60);
  EXPECT_EQ(backend_of(Device()).mark(), nullptr);
}

TEST(DeviceArray, CopyIntoBringsAndConverts) {
  const Array host = test::values({4, 3}, DType::f64, -9, 9);
  const Array there = Array::zeros({3, 4}, DType::f32, device());
  kernels::copy_into(host.transpose(0, 1), there);
  EXPECT_EQ(there.to_vector<float>(), host.transpose(0, 1).to_vector<float>());
  const Array back = Array::zeros({2, 3, 4}, DType::i64);
  kernels::copy_into(there, back);
  EXPECT_EQ(back.select(0, 1).to_vector<int64_t>(), there.to_vector<int64_t>());
}

TEST(DeviceArray, OperandsOnTwoDevicesAreAnError) {
  const Tensor here(Array::zeros({2, 2}, DType::f32)), there = here.to(device());
  EXPECT_THROW(here + there, Error);
  EXPECT_THROW(matmul(there, here), Error);
}

TEST(DeviceArray, ItIsKnownWhereIntegersFromTheHostLie) {
  const Array ids = Array::from<int64_t>({3, 0, 7}, {3}, device());
  EXPECT_TRUE(kernels::known_within(ids, 8));
  EXPECT_TRUE(kernels::known_within(ids.narrow(0, 1, 1), 8));
  EXPECT_FALSE(kernels::known_within(ids, 7));
  EXPECT_THROW(kernels::check_range("test", ids, 7), Error);
  EXPECT_NO_THROW(kernels::check_range("test", ids.narrow(0, 0, 2), 7));
  EXPECT_TRUE(kernels::known_within(kernels::to_device(ids.to_host(), device()), 8));
  EXPECT_FALSE(kernels::known_within(Array::from<int64_t>({-1, 2}, {2}, device()), 8));
  kernels::fill(ids, 9);
  EXPECT_FALSE(kernels::known_within(ids, 10));
  EXPECT_THROW(kernels::check_range("test", ids, 8), Error);
}

TEST(DeviceArray, SumsOfSquaresOfSeveral) {
  std::vector<Array> here, there;
  for (int64_t size : {1, 5, 1000, 0, 70000}) {
    here.push_back(test::values({size}, DType::f32, -1, 1));
    there.push_back(kernels::to_device(here.back(), device()));
  }
  const std::vector<double> expected = kernels::sums_of_squares(here);
  const std::vector<double> found = kernels::sums_of_squares(there);
  for (size_t i = 0; i < here.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-9 * expected[i]);
  EXPECT_TRUE(kernels::sums_of_squares({}).empty());
}

TEST(DeviceArray, NewTensorsGoWhereTheContextSays) {
  context().device = device();
  EXPECT_EQ(zeros({2}).device(), device());
  EXPECT_EQ((ones({2}) + 1.0).to_vector<double>(), (std::vector<double>{2, 2}));
  context().device = {};
  EXPECT_EQ(zeros({2}).device(), Device());
}

TEST(DeviceArray, RunningOutOfMemoryNamesTheOpAndItsNeighbours) {
  Backend& backend = backend_of(device());
  backend.trim();
  const Tensor x = zeros({1 << 20}, {.device = device()});
  backend.set_limit(backend.statistics().reserved_bytes + (24 << 20));
  std::vector<Tensor> held;
  try {
    for (int i = 0; i < 20; ++i) held.push_back(exp(x));
    FAIL() << "expected an error";
  } catch (const OutOfMemory& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("exp asked for 4 MiB"));
    EXPECT_THAT(error.what(), testing::HasSubstr("held by exp "));
  }
  backend.set_limit(0);
}

}  // namespace
}  // namespace lockstep
