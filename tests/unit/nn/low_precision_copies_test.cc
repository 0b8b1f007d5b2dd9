// The 16-bit copies of parameters that optimizers write.
#include <gtest/gtest.h>

#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/ops.h"
#include "lockstep/nn/optim.h"
#include "optimizer_testing.h"

namespace lockstep::optim {
namespace {

void expect_fresh(LowPrecisionCopies& copies, const Fixture& fixture, const std::string& what) {
  for (const nn::Parameter& parameter : fixture.parameters) {
    const Array& value = parameter.tensor().value();
    EXPECT_EQ(copies.of(value).to_vector<float>(),
              kernels::cast(value, copies.dtype()).to_vector<float>())
        << what;
  }
}

// Gradients for all at step 1, none for the second parameter at step 2, the first frozen at step 3.
void prepare_step(Fixture& fixture, int step) {
  fixture.give_gradients(step);
  if (step == 2) fixture.parameters[1].leaf().set_has_gradient(false);
  fixture.parameters[0].set_frozen(step == 3);
}

TEST(OptimizerCopies, EqualAFreshConversionAfterEachStep) {
  for (const OptimizerCase& each : all_optimizers()) {
    for (bool flat : {true, false}) {
      for (DType dtype : {DType::bf16, DType::f16}) {
        const std::string what = std::string(each.name) + (flat ? " flat " : " alone ");
        Fixture with(flat, DType::f32, each.shapes()), without(flat, DType::f32, each.shapes());
        LowPrecisionCopies copies(dtype);
        expect_fresh(copies, with, what);
        const int64_t made = copies.conversions();
        EXPECT_EQ(made, flat ? 1 : static_cast<int64_t>(with.parameters.size()));
        const auto a = each.make(with.parameters), b = each.make(without.parameters);
        a->set_copies(&copies);
        for (int step = 1; step <= 4; ++step) {
          prepare_step(with, step);
          prepare_step(without, step);
          a->step(0.7);
          b->step(0.7);
          expect_fresh(copies, with, what + std::to_string(step));
          EXPECT_EQ(with.all_values(), without.all_values()) << what << step;
        }
        // These change parameters after their kernel.
        const bool stale = std::string(each.name) == "lamb" || std::string(each.name) == "muon";
        EXPECT_EQ(copies.conversions() > made, stale) << what;
      }
    }
  }
}

TEST(OptimizerCopies, ThatAreNotUpToDateAreConvertedAtTheNextUse) {
  Fixture fixture(true, DType::f32);
  LowPrecisionCopies copies(DType::bf16);
  AdamW optimizer(fixture.parameters, {.learning_rate = 0.1});
  optimizer.set_copies(&copies);
  fixture.give_gradients(1);
  optimizer.step();
  EXPECT_EQ(copies.bytes(), 0) << "a step makes no copies";
  expect_fresh(copies, fixture, "first use");
  kernels::fill(fixture.parameters[2].tensor().value(), 3);
  fixture.parameters[2].set_frozen(true);
  optimizer.step();
  expect_fresh(copies, fixture, "changed by another");
  EXPECT_EQ(copies.conversions(), 2);
  optimizer.step();
  expect_fresh(copies, fixture, "up to date again");
  EXPECT_EQ(copies.conversions(), 2);
}

TEST(OptimizerCopies, ABackwardPassThatReadsAChangedCopyIsAnError) {
  Fixture fixture(true, DType::f32, {Shape{4, 4}});
  LowPrecisionCopies copies(DType::bf16);
  SGD optimizer(fixture.parameters, {.learning_rate = 0.1});
  optimizer.set_copies(&copies);
  const Tensor x = Tensor::variable(Array::full({2, 4}, 1, DType::f32));
  Tensor loss;
  {
    const Autocast autocast(copies);
    loss = sum(matmul(x, fixture.parameters[0].tensor()));
  }
  fixture.give_gradients(1);
  optimizer.step();
  EXPECT_THROW(loss.backward(), Error);
}

TEST(OptimizerCopies, OfMemoryThatIsGoneAreDroppedByAStep) {
  Fixture fixture(false, DType::f32, {Shape{4, 4}});
  LowPrecisionCopies copies(DType::bf16);
  SGD optimizer(fixture.parameters, {.learning_rate = 0.1});
  optimizer.set_copies(&copies);
  expect_fresh(copies, fixture, "before");
  fixture.parameters[0].seat(Array::zeros({4, 4}, DType::f32));
  optimizer.step();
  EXPECT_EQ(copies.bytes(), 0);
}

}  // namespace
}  // namespace lockstep::optim
