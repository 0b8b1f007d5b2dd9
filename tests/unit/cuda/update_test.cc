#include <gtest/gtest.h>

#include "lockstep/runtime/math/update.h"
#include "support/device_layouts.h"

namespace lockstep {
namespace {

using test::device_kernels;
using test::host_kernels;
using test::on_device;

// What is updated: a run, its arrays side by side in one, each `offset` elements after a boundary.
struct Piece {
  static constexpr int kArrays = 2 + UpdateRun::kStates;
  int64_t elements;
  int64_t offset;
  Array arrays;  // [kArrays, elements + room]: parameter, gradient, states
  Array copy;

  Piece(int64_t count, int64_t skipped, DType dtype, DType copy_dtype, uint64_t seed)
      : elements(count),
        offset(skipped),
        arrays(test::values({kArrays, (count + skipped + 31) / 16 * 16}, dtype, 0.1, 1, seed)),
        copy(Array::zeros({arrays.dim(1)}, copy_dtype)) {}

  UpdateRun of(const Array& on, const Array& on_copy, bool with_copy) const {
    UpdateRun run;
    const auto at = [&](int i) { return on.select(0, i).narrow(0, offset, elements).data(); };
    run.parameter = at(0);
    run.gradient = at(1);
    for (int i = 0; i < UpdateRun::kStates; ++i) run.state[i] = at(2 + i);
    run.elements = elements;
    run.dtype = on.dtype();
    if (with_copy) run.copy = on_copy.narrow(0, offset, elements).data();
    run.copy_dtype = on_copy.dtype();
    for (int i = 0; i < UpdateRun::kConstants; ++i) run.constants[i] = 0.3 + 0.05 * i;
    return run;
  }
};

void check(int op, const std::vector<Piece>& runs) {
  std::vector<UpdateRun> on_host, on_the_device;
  std::vector<Array> arrays, copies;
  for (size_t i = 0; i < runs.size(); ++i) {
    arrays.push_back(on_device(runs[i].arrays));
    copies.push_back(on_device(runs[i].copy));
    on_host.push_back(runs[i].of(runs[i].arrays, runs[i].copy, i % 2 == 0));
    on_the_device.push_back(runs[i].of(arrays[i], copies[i], i % 2 == 0));
  }
  device_kernels().update(op, on_the_device.data(), static_cast<int>(runs.size()));
  host_kernels().update(op, on_host.data(), static_cast<int>(runs.size()));
  for (size_t i = 0; i < runs.size(); ++i) {
    test::expect_near(arrays[i], runs[i].arrays, test::tolerance(runs[i].arrays.dtype(), 128));
    test::expect_near(copies[i], runs[i].copy, test::tolerance(runs[i].copy.dtype()));
  }
}

TEST(CudaUpdate, EveryOptimizerAndDtype) {
  for (int op = 0; op < math::UpdateOps::size; ++op) {
    for (DType dtype : test::kFloats) {
      check(op, {{1, 0, dtype, DType::bf16, 1},
                 {2048, 0, dtype, DType::f16, 2},
                 {2500, 8, dtype, DType::bf16, 3},
                 {2500, 1, dtype, DType::f16, 4},
                 {0, 0, dtype, DType::bf16, 5}});
    }
  }
}

// More runs than a launch takes, of all dtypes in turn.
TEST(CudaUpdate, ManyRuns) {
  std::vector<Piece> runs;
  for (int i = 0; i < 131; ++i) {
    runs.emplace_back(1 + 37 * i % 1100, i % 5, test::kFloats[i % 4], DType::bf16,
                      static_cast<uint64_t>(i));
  }
  check(math::index_of<math::UpdateOps, math::AdamUpdate<false>>, runs);
}

TEST(CudaUpdate, NoRuns) { device_kernels().update(0, nullptr, 0); }

}  // namespace
}  // namespace lockstep
