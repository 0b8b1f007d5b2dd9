#include <gtest/gtest.h>

#include <string>

#include "lockstep/runtime/cuda/kernels/regions.h"
#include "lockstep/runtime/error.h"
#include "support/device_layouts.h"
#include "unit/runtime/functor_cases.h"

namespace lockstep {
namespace {

using test::device_kernels;
using test::expect_near;
using test::host_kernels;
using test::Layout;
using test::on_device;

constexpr DType kIntegers[] = {DType::i64, DType::i32, DType::u8};

// Whole packs in each run, packs with a rest, runs that are no packs, one element, none.
const Shape kShapes[] = {{3, 16}, {1, 531}, {5, 37}, {1, 1}, {0, 8}};

Elementwise with_attributes(int index) {
  return {index, {testing::kAttributes[0], testing::kAttributes[1]}};
}

View view_if(bool wanted, const Array& array) { return wanted ? array.view() : View(); }

// Arrays of one shape: dense, of any layout, a row, a column and one value for all.
std::vector<Array> operands(const Shape& shape, DType dtype, double low, double high,
                            uint64_t seed) {
  std::vector<Array> all;
  for (Layout layout : test::kLayouts) {
    all.push_back(laid(test::values(shape, dtype, low, high, seed), layout));
  }
  for (Shape memory : {Shape{1, shape[1]}, Shape{shape[0], 1}, Shape{1, 1}}) {
    if (shape.elements() == 0) break;
    all.push_back(test::values(memory, dtype, low, high, seed).expand(shape));
  }
  return all;
}

Array result_of(const Shape& shape, DType dtype, Layout layout = Layout::dense) {
  return laid(test::values(shape, dtype, -1, 1, 9), layout);
}

double bound(DType dtype) { return test::tolerance(dtype, dtype == DType::f64 ? 64 : 24); }

TEST(CudaElementwise, UnaryIsTheCpus) {
  for (const auto& f : testing::unary_cases()) {
    for (DType dtype : test::kFloats) {
      SCOPED_TRACE(f.name);
      for (const Shape& shape : kShapes) {
        for (const Array& x : operands(shape, dtype, 0.2, 0.9, 1)) {
          for (Layout layout : {Layout::dense, Layout::sliced}) {
            const Array y = result_of(shape, dtype, layout);
            const Array device_y = on_device(y);
            const Elementwise op = with_attributes(f.index);
            host_kernels().unary(op, x.view(), y.view());
            device_kernels().unary(op, on_device(x).view(), device_y.view());
            expect_near(device_y, y, bound(dtype));
          }
        }
      }
    }
  }
}

TEST(CudaElementwise, UnaryBackwardIsTheCpusAndReadsWhatItNeeds) {
  for (const auto& f : testing::unary_cases()) {
    for (DType dtype : test::kFloats) {
      SCOPED_TRACE(f.name);
      for (const Shape& shape : {Shape{3, 16}, Shape{5, 37}}) {
        for (const Array& x : operands(shape, dtype, 0.2, 0.9, 1)) {
          for (double beta : {0.0, 1.0}) {
            const Array y = test::values(shape, dtype, 0.3, 0.8, 2);
            const Array dy = test::values(shape, dtype, -1, 1, 3);
            const Array dx = result_of(shape, dtype);
            if (beta == 0) host_kernels().fill(dx.view(), std::nan(""));
            const Array device_dx = on_device(dx), device_x = on_device(x), device_y = on_device(y);
            const Elementwise op = with_attributes(f.index);
            host_kernels().unary_backward(op, view_if(f.reads.a, x), view_if(f.reads.out, y),
                                          dy.view(), dx.view(), beta);
            device_kernels().unary_backward(op, view_if(f.reads.a, device_x),
                                            view_if(f.reads.out, device_y), on_device(dy).view(),
                                            device_dx.view(), beta);
            expect_near(device_dx, dx, bound(dtype));
          }
        }
      }
    }
  }
}

TEST(CudaElementwise, BinaryIsTheCpus) {
  for (const auto& f : testing::binary_cases()) {
    for (DType dtype : test::kFloats) {
      SCOPED_TRACE(f.name);
      for (const Shape& shape : kShapes) {
        const Array a = test::values(shape, dtype, 0.2, 2, 1);
        for (const Array& b : operands(shape, dtype, 0.2, 2, 2)) {
          const Array out = result_of(shape, dtype);
          const Array device_out = on_device(out);
          host_kernels().binary({f.index}, b.view(), a.view(), out.view());
          device_kernels().binary({f.index}, on_device(b).view(), on_device(a).view(),
                                  device_out.view());
          expect_near(device_out, out, bound(dtype));
        }
      }
    }
  }
}

TEST(CudaElementwise, BinaryBackwardIsTheCpusAndReadsWhatItNeeds) {
  const Shape shape{6, 24};
  for (const auto& f : testing::binary_cases()) {
    for (DType dtype : test::kFloats) {
      SCOPED_TRACE(f.name);
      for (const Array& b : operands(shape, dtype, 0.2, 2, 2)) {
        for (int operand : {0, 1}) {
          for (double beta : {0.0, 0.5}) {
            const math::Reads reads = f.reads[operand];
            const Array a = test::values(shape, dtype, 0.2, 2, 1);
            const Array out = test::values(shape, dtype, 0.2, 2, 4);
            const Array dy = laid(test::values(shape, dtype, -1, 1, 3), Layout::transposed);
            const Array d = result_of(shape, dtype);
            if (beta == 0) host_kernels().fill(d.view(), std::nan(""));
            const Array device_d = on_device(d), device_a = on_device(a), device_b = on_device(b),
                        device_out = on_device(out);
            host_kernels().binary_backward({f.index}, operand, view_if(reads.a, a),
                                           view_if(reads.b, b), view_if(reads.out, out), dy.view(),
                                           d.view(), beta);
            device_kernels().binary_backward(
                {f.index}, operand, view_if(reads.a, device_a), view_if(reads.b, device_b),
                view_if(reads.out, device_out), on_device(dy).view(), device_d.view(), beta);
            expect_near(device_d, d, bound(dtype));
          }
        }
      }
    }
  }
}

TEST(CudaElementwise, IntegersAreExactOrRefused) {
  const Shape shape{5, 37};
  for (DType dtype : kIntegers) {
    const double low = dtype == DType::u8 ? 1 : -9;
    const Array a = test::values(shape, dtype, low, 9, 1);
    for (const Array& b : operands(shape, dtype, 1, 5, 2)) {
      for (const auto& f : testing::binary_cases()) {
        SCOPED_TRACE(f.name);
        const Array out = result_of(shape, dtype);
        const Array device_out = on_device(out);
        const auto on = [&](Kernels& kernels, const Array& x, const Array& y, const Array& z) {
          kernels.binary({f.index}, x.view(), y.view(), z.view());
        };
        try {
          on(host_kernels(), a, b, out);
        } catch (const Error&) {
          EXPECT_THROW(on(device_kernels(), on_device(a), on_device(b), device_out), Error);
          continue;
        }
        on(device_kernels(), on_device(a), on_device(b), device_out);
        test::expect_same(device_out, out);
      }
    }
    for (const auto& f : testing::unary_cases()) {
      SCOPED_TRACE(f.name);
      const Array y = result_of(shape, dtype);
      const Array device_y = on_device(y);
      try {
        host_kernels().unary({f.index}, a.view(), y.view());
      } catch (const Error&) {
        EXPECT_THROW(device_kernels().unary({f.index}, on_device(a).view(), device_y.view()),
                     Error);
        continue;
      }
      device_kernels().unary({f.index}, on_device(a).view(), device_y.view());
      test::expect_same(device_y, y);
    }
  }
}

TEST(CudaElementwise, CompareAndWhereAreTheCpus) {
  for (DType dtype : test::kDTypes) {
    for (const Shape& shape : {Shape{3, 16}, Shape{5, 37}}) {
      const Array a = test::values(shape, dtype, 0, 4, 1);
      for (const Array& b : operands(shape, dtype, 0, 4, 2)) {
        const Array device_a = on_device(a), device_b = on_device(b);
        for (const auto& f : testing::compare_cases()) {
          SCOPED_TRACE(f.name);
          const Array truth = result_of(shape, DType::boolean), chosen = result_of(shape, dtype);
          const Array device_truth = on_device(truth), device_chosen = on_device(chosen);
          host_kernels().compare({f.index}, a.view(), b.view(), truth.view());
          device_kernels().compare({f.index}, device_a.view(), device_b.view(),
                                   device_truth.view());
          test::expect_same(device_truth, truth);
          host_kernels().where(truth.view(), a.view(), b.view(), chosen.view());
          device_kernels().where(device_truth.view(), device_a.view(), device_b.view(),
                                 device_chosen.view());
          test::expect_same(device_chosen, chosen);
        }
      }
    }
  }
}

TEST(CudaElementwise, ScaleAddIsTheCpus) {
  for (DType dtype : test::kFloats) {
    for (const Shape& shape : kShapes) {
      for (const Array& x : operands(shape, dtype, -1, 1, 1)) {
        for (double beta : {0.0, 1.0, 0.25}) {
          const Array y = result_of(shape, dtype);
          if (beta == 0) host_kernels().fill(y.view(), std::nan(""));
          const Array device_y = on_device(y);
          host_kernels().scale_add(0.5, x.view(), beta, y.view());
          device_kernels().scale_add(0.5, on_device(x).view(), beta, device_y.view());
          expect_near(device_y, y, test::tolerance(dtype));
        }
      }
    }
  }
}

// Of memory that nobody has: where elements lie, not what they are.
View imagined(Shape shape, Shape strides) {
  View view;
  view.data = reinterpret_cast<void*>(int64_t{1} << 40);
  view.dtype = DType::bf16;
  view.rank = shape.rank();
  for (int d = 0; d < view.rank; ++d) {
    view.shape[d] = shape[d];
    view.strides[d] = strides[d];
  }
  return view;
}

TEST(CudaElementwise, LargeViewsAreCutIntoRegions) {
  const int64_t large = (int64_t{1} << 32) + 40;
  const View outputs[] = {imagined({large}, {1}), imagined({65536, 50257}, {50257, 1}),
                          imagined({3, large}, {large, 1}), imagined({50257, 65536}, {65536, 1}),
                          imagined({7, 9}, {9, 1})};
  const View inputs[] = {imagined({large}, {0}), imagined({65536, 50257}, {50304, 1}),
                         imagined({3, large}, {0, 1}), imagined({50257, 65536}, {1, 50257}),
                         imagined({7, 9}, {1, 7})};
  for (int i = 0; i < 5; ++i) {
    const cuda::Cut<2> cut({&inputs[i], &outputs[i]}, 8);
    int64_t elements = 0;
    for (int64_t r = 0; r < cut.count(); ++r) {
      const cuda::Region<2> region = cut.region(r);
      elements += region.count;
      for (int operand : {0, 1}) {
        int64_t reach = 0;
        for (int d = 0; d < region.layout.rank; ++d) {
          reach += (int64_t{region.layout.shape[d].value} - 1) * region.layout.strides[operand][d];
        }
        EXPECT_LT(reach, int64_t{1} << 31);
      }
    }
    EXPECT_EQ(elements, outputs[i].elements());
    EXPECT_LT(cut.count(), 16);
  }
  EXPECT_TRUE(cuda::Cut<2>({&inputs[0], &outputs[0]}, 8).region(0).packed);
}

}  // namespace
}  // namespace lockstep
