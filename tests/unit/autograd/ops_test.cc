// Every op: gradient against central differences in double, the recorded form of the gradient
// against the fused one, and the gradient's gradient.

#include "lockstep/autograd/ops.h"

#include <gtest/gtest.h>

#include "support/gradient_check.h"

namespace lockstep::testing {
namespace {

struct Case {
  std::string name;
  Function function;
  std::vector<Array> inputs;
};

std::vector<Case> shape_cases() {
  const Array x = random_array({2, 3, 4}, 1);
  return {
      {"reshape",
       [](const auto& in) {
         return square(reshape(in[0], {4, -1}));
       },
       {x}},
      {"permute",
       [](const auto& in) {
         return square(permute(in[0], {2, 0, 1}));
       },
       {x}},
      {"transpose_reshape",
       [](const auto& in) {
         return square(reshape(transpose(in[0], 0, 2), {12, 2}));
       },
       {x}},
      {"unsqueeze", [](const auto& in) { return square(unsqueeze(in[0], 1)); }, {x}},
      {"squeeze",
       [](const auto& in) { return square(squeeze(in[0], 0)); },
       {random_array({1, 3}, 1)}},
      {"expand",
       [](const auto& in) {
         return square(expand(in[0], {4, 2, 3}));
       },
       {random_array({2, 1}, 1)}},
      {"narrow", [](const auto& in) { return square(narrow(in[0], 1, 1, 2)); }, {x}},
      {"narrow_twice",
       [](const auto& in) { return narrow(in[0], 1, 0, 2) * narrow(in[0], 1, 1, 2); },
       {x}},
      {"chunk",
       [](const auto& in) {
         const auto parts = chunk(in[0], 2, 2);
         return parts[0] * square(parts[1]);
       },
       {x}},
      {"chunk_one_used", [](const auto& in) { return square(chunk(in[0], 2, 2)[1]); }, {x}},
      {"contiguous", [](const auto& in) { return square(contiguous(in[0].mT())); }, {x}},
      {"sum_all", [](const auto& in) { return square(sum(in[0])); }, {x}},
      {"sum_dims",
       [](const auto& in) {
         return square(sum(in[0], {0, -1}));
       },
       {x}},
      {"mean_keepdim", [](const auto& in) { return square(mean(in[0], {1}, true)); }, {x}},
  };
}

std::vector<Case> matmul_cases() {
  const auto product = [](const auto& in) { return matmul(in[0], in[1]); };
  const auto affine = [](const auto& in) { return linear(in[0], in[1], in[2]); };
  return {
      {"matmul", product, {random_array({3, 4}, 1), random_array({4, 2}, 2)}},
      {"matmul_batched", product, {random_array({2, 3, 4}, 1), random_array({2, 4, 2}, 2)}},
      {"matmul_shared_right", product, {random_array({2, 3, 4}, 1), random_array({4, 2}, 2)}},
      {"matmul_shared_left", product, {random_array({3, 4}, 1), random_array({2, 4, 2}, 2)}},
      {"matmul_broadcast", product, {random_array({2, 1, 3, 4}, 1), random_array({3, 4, 2}, 2)}},
      {"matmul_vector", product, {random_array({4}, 1), random_array({4, 2}, 2)}},
      {"matmul_dot", product, {random_array({4}, 1), random_array({4}, 2)}},
      {"matmul_transposed",
       [](const auto& in) { return matmul(in[0].mT(), in[1].mT()); },
       {random_array({4, 3}, 1), random_array({2, 4}, 2)}},
      {"linear", affine, {random_array({5, 3}, 1), random_array({2, 3}, 2), random_array({2}, 3)}},
      {"linear_3d",
       affine,
       {random_array({2, 5, 3}, 1), random_array({2, 3}, 2), random_array({2}, 3)}},
  };
}

std::vector<Case> row_cases() {
  const Array ids = Array::from<int64_t>({2, 0, 2, 1}, {2, 2});
  const Array targets = Array::from<int64_t>({1, 3, -100}, {3});
  const auto attend = [](bool causal) {
    return [causal](const std::vector<Tensor>& in) {
      return scaled_dot_product_attention(in[0], in[1], in[2], {.causal = causal, .scale = 0.7});
    };
  };
  return {
      {"softmax", [](const auto& in) { return softmax(in[0]); }, {random_array({3, 4}, 1)}},
      {"log_softmax", [](const auto& in) { return log_softmax(in[0]); }, {random_array({3, 4}, 1)}},
      {"layer_norm",
       [](const auto& in) { return layer_norm(in[0], {5}, in[1], in[2]); },
       {random_array({3, 5}, 1), random_array({5}, 2), random_array({5}, 3)}},
      {"layer_norm_plain",
       [](const auto& in) { return layer_norm(in[0], {5}); },
       {random_array({2, 2, 5}, 1)}},
      {"embedding",
       [ids](const auto& in) { return square(embedding(Tensor(ids), in[0])); },
       {random_array({3, 2}, 1)}},
      {"cross_entropy",
       [targets](const auto& in) { return cross_entropy(in[0], Tensor(targets)); },
       {random_array({3, 4}, 1)}},
      {"cross_entropy_none",
       [targets](const auto& in) {
         return cross_entropy(in[0], Tensor(targets), {.reduction = Reduction::none});
       },
       {random_array({3, 4}, 1)}},
      {"attention",
       attend(false),
       {random_array({1, 2, 3, 2}, 1), random_array({1, 2, 4, 2}, 2),
        random_array({1, 2, 4, 2}, 3)}},
      {"attention_causal",
       attend(true),
       {random_array({1, 2, 3, 2}, 1), random_array({1, 2, 4, 2}, 2),
        random_array({1, 2, 4, 2}, 3)}},
      {"attention_of_itself",
       [attend](const auto& in) {
         return attend(true)({in[0], in[0], in[0] * 2.0});
       },
       {random_array({1, 2, 3, 2}, 1)}},
      {"layer_norm_of_dependent_inputs",
       [](const auto& in) { return layer_norm(in[0], {4}, in[0] * 2.0, in[0] * 3.0); },
       {random_array({4}, 1)}},
      {"packed_attention",
       [](const auto& in) { return packed_attention(in[0], 2); },
       {random_array({1, 3, 12}, 1)}},
      {"dropout",
       [](const auto& in) {
         context().random = {.seed = 5, .step = 1};
         return dropout(square(in[0]), 0.4);
       },
       {random_array({3, 4}, 1)}},
  };
}

class Ops : public ::testing::TestWithParam<Case> {};

TEST_P(Ops, GradientMatchesDifference) { expect_gradients(GetParam().function, GetParam().inputs); }

TEST_P(Ops, RecordedGradientEqualsFused) {
  expect_recorded_equals_fused(GetParam().function, GetParam().inputs);
}

TEST_P(Ops, SecondGradientMatchesDifference) {
  // A function that is linear in its inputs has no second gradient: its square has one.
  const Function squared = [&](const auto& in) { return square(GetParam().function(in)); };
  expect_second_gradients(squared, GetParam().inputs);
}

const auto case_name = [](const auto& info) { return info.param.name; };
INSTANTIATE_TEST_SUITE_P(Shape, Ops, ::testing::ValuesIn(shape_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Matmul, Ops, ::testing::ValuesIn(matmul_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Rows, Ops, ::testing::ValuesIn(row_cases()), case_name);

}  // namespace
}  // namespace lockstep::testing
