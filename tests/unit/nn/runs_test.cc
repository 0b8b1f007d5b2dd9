#include "lockstep/nn/optim/runs.h"

#include <gtest/gtest.h>

#include "lockstep/runtime/array.h"

namespace lockstep::optim {
namespace {

// Windows of 3 and more elements of flat f64 arrays, with one array of state.
struct Flat {
  Array values = Array::zeros({64}, DType::f64), gradients = Array::zeros({64}, DType::f64),
        state = Array::zeros({64}, DType::f64);

  RunCandidate at(int64_t offset, int64_t elements, double constant = 0, int op = 1) const {
    const auto place = [&](const Array& array) { return array.data<double>() + offset; };
    return {.run = {.parameter = place(values),
                    .gradient = place(gradients),
                    .state = {place(state)},
                    .elements = elements,
                    .dtype = DType::f64,
                    .constants = {constant}},
            .op = op,
            .storage = values.storage().get()};
  }
};

std::vector<int64_t> lengths(const std::vector<RunCandidate>& runs) {
  std::vector<int64_t> result;
  for (const RunCandidate& candidate : runs) result.push_back(candidate.run.elements);
  return result;
}

using Lengths = std::vector<int64_t>;

TEST(Runs, JoinNeighboursWithNothingOrPaddingBetween) {
  const Flat flat;
  EXPECT_EQ(lengths(joined_runs({flat.at(8, 8), flat.at(0, 3), flat.at(16, 5)})), Lengths{21});
  EXPECT_EQ(lengths(joined_runs({flat.at(0, 3), flat.at(3, 4)})), Lengths{7});
  EXPECT_EQ(lengths(joined_runs({flat.at(0, 3), flat.at(16, 4)})), (Lengths{3, 4}));
}

TEST(Runs, PartWhereAnythingDiffers) {
  const Flat flat, other;
  EXPECT_EQ(lengths(joined_runs({flat.at(0, 8, 0.1), flat.at(8, 8, 0.2)})), (Lengths{8, 8}));
  EXPECT_EQ(lengths(joined_runs({flat.at(0, 8, 0, 1), flat.at(8, 8, 0, 2)})), (Lengths{8, 8}));
  RunCandidate elsewhere = flat.at(8, 8);
  elsewhere.run.gradient = other.gradients.data();
  EXPECT_EQ(lengths(joined_runs({flat.at(0, 8), elsewhere})), (Lengths{8, 8}));
  elsewhere = flat.at(8, 8);
  elsewhere.run.state[0] = other.state.data();
  EXPECT_EQ(lengths(joined_runs({flat.at(0, 8), elsewhere})), (Lengths{8, 8}));
}

TEST(Runs, PartWhereCopiesAreNoNeighbours) {
  const Flat flat;
  const Array copy = Array::zeros({64}, DType::bf16), other = Array::zeros({64}, DType::bf16);
  const auto copied = [&](const Array& into, int64_t offset, int64_t elements) {
    RunCandidate candidate = flat.at(offset, elements);
    candidate.run.copy = static_cast<char*>(into.data()) + offset * 2;
    return candidate;
  };
  EXPECT_EQ(lengths(joined_runs({copied(copy, 0, 3), copied(copy, 8, 8)})), Lengths{16});
  EXPECT_EQ(lengths(joined_runs({copied(copy, 0, 8), copied(other, 8, 8)})), (Lengths{8, 8}));
  EXPECT_EQ(lengths(joined_runs({copied(copy, 0, 8), flat.at(8, 8)})), (Lengths{8, 8}));
  EXPECT_EQ(lengths(joined_runs({flat.at(0, 8), copied(copy, 8, 8)})), (Lengths{8, 8}));
  RunCandidate f16 = copied(copy, 8, 8);
  f16.run.copy_dtype = DType::f16;
  EXPECT_EQ(lengths(joined_runs({copied(copy, 0, 8), f16})), (Lengths{8, 8}));
}

TEST(Runs, PartAtWhatIsLeftAlone) {
  const Flat flat;
  EXPECT_EQ(lengths(joined_runs({flat.at(0, 3), flat.at(3, 0), flat.at(8, 8)})), (Lengths{3, 8}));
  EXPECT_EQ(lengths(joined_runs({flat.at(0, 0)})), Lengths{});
}

}  // namespace
}  // namespace lockstep::optim
