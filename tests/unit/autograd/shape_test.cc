// Shape ops: gradients, values against plain index arithmetic, and errors.

#include "lockstep/autograd/ops/shape.h"

#include <gtest/gtest.h>

#include "support/gradient_check.h"

namespace lockstep::testing {
namespace {

using Doubles = std::vector<double>;

Tensor counted(const Shape& shape, DType dtype = DType::f64) {
  std::vector<int64_t> all(static_cast<size_t>(shape.elements()));
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int64_t>(i);
  return kernels::cast(Array::from(all, shape), dtype);
}

TEST(Shape, GradientsOfEveryOrder) {
  const Array x = random_array({3, 4, 2}, 1), y = random_array({3, 1, 2}, 2);
  const std::vector<std::pair<std::string, Function>> cases = {
      {"view",
       [](const auto& in) {
         return square(view(in[0], {4, -1}));
       }},
      {"flatten", [](const auto& in) { return square(flatten(in[0], 1)); }},
      {"squeeze", [](const auto& in) { return square(squeeze(in[1])); }},
      {"squeeze list",
       [](const auto& in) {
         return square(squeeze(in[1], {0, 1}));
       }},
      {"expand",
       [](const auto& in) {
         return square(expand(in[1], {2, -1, 5, -1})) * 2;
       }},
      {"narrow", [](const auto& in) { return square(narrow(in[0], 1, -3, 2)); }},
      {"slice", [](const auto& in) { return square(slice(in[0], 1, 1, {}, 2)); }},
      {"slice nothing", [](const auto& in) { return square(slice(in[0], 1, 3, 1)) + sum(in[0]); }},
      {"select", [](const auto& in) { return square(select(in[0], 1, -1)); }},
      {"unbind", [](const auto& in) { return square(unbind(in[0], 2)[1]); }},
      {"chunk", [](const auto& in) { return square(chunk(in[0], 3, 1)[1]); }},
      {"split",
       [](const auto& in) {
         return square(split(in[0], {1, 0, 3}, 1)[2]);
       }},
      {"flip",
       [](const auto& in) {
         return square(flip(in[0], {0, -1}));
       }},
      {"roll",
       [](const auto& in) {
         return square(roll(in[0], {1, -5}, {0, 1})) * in[0];
       }},
      {"roll flat", [](const auto& in) { return square(roll(in[0], {7})) * in[0]; }},
      {"cat",
       [](const auto& in) {
         return square(cat({in[0], in[1], in[0]}, -2));
       }},
      {"stack",
       [](const auto& in) {
         return square(stack({in[0], in[0] * in[1]}, 3));
       }},
      {"pad",
       [](const auto& in) {
         return square(pad(in[0], {1, -1, -1, 2, 1, 0}, {}, 3));
       }},
      {"reflect",
       [](const auto& in) {
         return square(pad(in[0], {1, 0, 3, 2}, PadMode::reflect));
       }},
      {"tril", [](const auto& in) { return square(tril(in[0], -1)); }},
      {"triu", [](const auto& in) { return square(triu(in[0], 1)); }},
      {"repeat",
       [](const auto& in) {
         return square(repeat(in[0], {2, 1, 3, 1}));
       }},
      {"interleave", [](const auto& in) { return square(repeat_interleave(in[0], 2, 1)); }},
      {"interleave by",
       [](const auto& in) {
         const Array counts = Array::from<int64_t>({2, 0, 1}, {3});
         return square(repeat_interleave(in[0], Tensor(counts), 0));
       }},
  };
  for (const auto& [name, f] : cases) {
    SCOPED_TRACE(name);
    expect_gradients(f, {x, y});
    expect_second_gradients(f, {x, y});
    expect_recorded_equals_fused(f, {x, y});
  }
}

TEST(Shape, Values) {
  const Tensor x = counted({2, 3});
  EXPECT_EQ(flip(x, {1}).to_vector<double>(), (Doubles{2, 1, 0, 5, 4, 3}));
  EXPECT_EQ(roll(x, {-1}, {1}).to_vector<double>(), (Doubles{1, 2, 0, 4, 5, 3}));
  EXPECT_EQ(roll(x, {8}).to_vector<double>(), (Doubles{4, 5, 0, 1, 2, 3}));
  EXPECT_EQ(tril(x).to_vector<double>(), (Doubles{0, 0, 0, 3, 4, 0}));
  EXPECT_EQ(triu(x, 1).to_vector<double>(), (Doubles{0, 1, 2, 0, 0, 5}));
  EXPECT_EQ(repeat(x, {1, 2}).to_vector<double>(), (Doubles{0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5}));
  EXPECT_EQ(repeat_interleave(counted({2}), 2).to_vector<double>(), (Doubles{0, 0, 1, 1}));
  EXPECT_EQ(repeat_interleave(counted({2}), 20).to_vector<double>()[19], 0);
  EXPECT_EQ(repeat_interleave(counted({2}), 20).to_vector<double>()[20], 1);
  for (const std::vector<int64_t>& counts :
       {std::vector<int64_t>{0, 2, 0, 1, 0}, std::vector<int64_t>{0, 0, 0, 0, 0},
        std::vector<int64_t>{3, 0, 0, 0, 1}}) {
    std::vector<double> expected;
    for (size_t i = 0; i < counts.size(); ++i) {
      expected.insert(expected.end(), static_cast<size_t>(counts[i]), static_cast<double>(i));
    }
    const Array by = Array::from(counts, {5});
    EXPECT_EQ(repeat_interleave(counted({5}), Tensor(by)).to_vector<double>(), expected);
  }
  EXPECT_EQ(slice(x, 1, -2, 100, 1).to_vector<double>(), (Doubles{1, 2, 4, 5}));
  EXPECT_EQ(pad(counted({3}), {2, -1}, {}, 9).to_vector<double>(), (Doubles{9, 9, 0, 1}));
  EXPECT_EQ(pad(counted({4}), {2, 3}, PadMode::reflect).to_vector<double>(),
            (Doubles{2, 1, 0, 1, 2, 3, 2, 1, 0}));
  EXPECT_EQ(pad(counted({4}), {-1, 1}, PadMode::reflect).to_vector<double>(),
            (Doubles{1, 2, 3, 2}));
  EXPECT_EQ(stack({x, x}, -1).shape(), (Shape{2, 3, 2}));
  EXPECT_EQ(squeeze(counted({1, 2, 1}), {0, 1}).shape(), (Shape{2, 1}));
  EXPECT_EQ(flatten(counted({})).shape(), (Shape{1}));
  std::vector<int64_t> pieces;
  for (const Tensor& piece : chunk(counted({7}), 4)) pieces.push_back(piece.dim(0));
  EXPECT_EQ(pieces, (std::vector<int64_t>{2, 2, 2, 1}));
  EXPECT_EQ(chunk(counted({5}), 4).size(), 3u);
  EXPECT_EQ(chunk(counted({0}), 3).size(), 3u);
  EXPECT_EQ(split(counted({5}), 3)[1].to_vector<double>(), (Doubles{3, 4}));
  EXPECT_EQ(split(counted({0}), 0).size(), 1u);
}

TEST(Shape, CatPromotesAndSkipsEmptyVectors) {
  const Tensor nothing = Array::empty({0}, DType::f64);
  const Tensor joined = cat({nothing, counted({1, 2}, DType::i64)}, 1);
  EXPECT_EQ(joined.dtype(), DType::f64);
  EXPECT_EQ(joined.shape(), (Shape{1, 2}));
  EXPECT_EQ(cat({nothing, nothing}).shape(), (Shape{0}));
  EXPECT_EQ(cat({counted({0, 2}), counted({1, 2})}).to_vector<double>(), (Doubles{0, 1}));
}

TEST(Shape, EveryDtypeAndLayout) {
  for (DType dtype : {DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32, DType::u8}) {
    const Tensor base = counted({4, 3}, dtype);
    for (const Tensor& x :
         {base.mT(), expand(narrow(base, 0, 1, 1), {3, 3}), slice(base, 0, 1, {}, 2)}) {
      const Tensor dense = kernels::copy(x.value());
      const auto both = [&](const auto& f) {
        EXPECT_EQ(f(x).dtype(), dtype);
        EXPECT_EQ(f(x).template to_vector<double>(), f(dense).template to_vector<double>());
      };
      both([](const Tensor& t) { return flip(t, {0}); });
      both([](const Tensor& t) { return cat({t, t}, 1); });
      both([](const Tensor& t) { return pad(t, {1, 1}, {}, 7); });
      both([](const Tensor& t) { return reshape(t, {-1}); });
      both([](const Tensor& t) { return tril(t); });
      both([](const Tensor& t) { return repeat(t, {2, 2}); });
    }
  }
}

TEST(Shape, Errors) {
  const Tensor x = counted({2, 3}), none;
  EXPECT_THROW(reshape(x, {4, -1}), Error);
  EXPECT_THROW(view(x.mT(), {6}), Error);
  EXPECT_THROW(flatten(x, 1, 0), Error);
  EXPECT_THROW(permute(x, {0, 0}), Error);
  EXPECT_THROW(squeeze(x, {0, -2}), Error);
  EXPECT_THROW(expand(x, {-1, 2, 3}), Error);
  EXPECT_THROW(expand(x, {3, 3}), Error);
  EXPECT_THROW(narrow(x, 1, 2, 2), Error);
  EXPECT_THROW(slice(x, 0, 0, 1, 0), Error);
  EXPECT_THROW(select(x, 0, 2), Error);
  EXPECT_THROW(chunk(x, 0), Error);
  EXPECT_THROW(split(x, 0), Error);
  EXPECT_THROW(split(x, {1, 2}), Error);
  EXPECT_THROW(split(x, {3, -1}), Error);
  EXPECT_THROW(flip(x, {0, 0}), Error);
  EXPECT_THROW(roll(x, {1, 2}), Error);
  EXPECT_THROW(cat({}), Error);
  EXPECT_THROW(cat({x, counted({2, 2})}, 0), Error);
  EXPECT_THROW(cat({x, counted({})}), Error);
  EXPECT_THROW(stack({x, counted({2})}), Error);
  EXPECT_THROW(pad(x, {1}), Error);
  EXPECT_THROW(pad(x, {0, 0, 0, 0, 1, 1}), Error);
  EXPECT_THROW(pad(x, {-2, -2}), Error);
  EXPECT_THROW(pad(x, {3, 0}, PadMode::reflect), Error);
  EXPECT_THROW(tril(counted({3})), Error);
  EXPECT_THROW(repeat(x, {2}), Error);
  EXPECT_THROW(repeat(x, {-1, 2}), Error);
  EXPECT_THROW(repeat_interleave(x, -1), Error);
  EXPECT_THROW(repeat_interleave(x, counted({3}, DType::i64), 0), Error);
  EXPECT_THROW(repeat_interleave(x, counted({2}), 0), Error);
  EXPECT_THROW(repeat_interleave(x, counted({2}, DType::i64) - Tensor(1), 0), Error);
  const std::vector<std::function<void()>> empty = {
      [&] { reshape(none, {1}); },    [&] { view(none, {1}); },
      [&] { flatten(none); },         [&] { permute(none, {}); },
      [&] { transpose(none, 0, 0); }, [&] { unsqueeze(none, 0); },
      [&] { squeeze(none); },         [&] { squeeze(none, 0); },
      [&] { expand(none, {1}); },     [&] { narrow(none, 0, 0, 0); },
      [&] { slice(none, 0); },        [&] { select(none, 0, 0); },
      [&] { unbind(none); },          [&] { chunk(none, 1); },
      [&] { split(none, 1); },        [&] { contiguous(none); },
      [&] { flip(none, {}); },        [&] { roll(none, {1}); },
      [&] { cat({none}); },           [&] { stack({none}); },
      [&] { pad(none, {}); },         [&] { tril(none); },
      [&] { repeat(none, {}); },      [&] { repeat_interleave(none, 1); }};
  for (size_t i = 0; i < empty.size(); ++i) EXPECT_THROW(empty[i](), Error) << i;
}

}  // namespace
}  // namespace lockstep::testing
