#include "lockstep/runtime/cuda/blas.h"

#include <cmath>
#include <vector>

#include "lockstep/runtime/cuda/access.h"
#include "lockstep/runtime/cuda/grid.h"
#include "lockstep/runtime/cuda/kernels/small_product.h"
#include "lockstep/runtime/error.h"
#include "lockstep/runtime/math/unary.h"
#include "simulated/recorder.h"

// Products by the book, and every argument checked as cuBLASLt would.
namespace lockstep::cuda {
namespace {

struct Reader {
  Product::Operand x;
  int64_t begin;  // of the batch's matrix

  double operator()(int64_t row, int64_t column) const {
    const int64_t at = begin + (x.transposed ? column * x.leading + row : row * x.leading + column);
    return x.dtype == DType::f64 ? load<double>(x.data, x.dtype, at)
                                 : static_cast<double>(load<float>(x.data, x.dtype, at));
  }
  void put(int64_t row, int64_t column, double value) const {
    const int64_t at = begin + (x.transposed ? column * x.leading + row : row * x.leading + column);
    if (x.dtype == DType::f64) {
      store<double>(x.data, x.dtype, at, value);
    } else {
      store<float>(x.data, x.dtype, at, static_cast<float>(value));
    }
  }
};

void check_operand(const Product::Operand& x, int64_t rows, int64_t columns, const char* name) {
  LOCKSTEP_CHECK(x.data != nullptr, "product: operand ", name, " has no data");
  LOCKSTEP_CHECK(x.leading >= (x.transposed ? rows : columns), "product: operand ", name, " of ",
                 rows, " x ", columns, " has its rows ", x.leading, " apart");
}

simulated::BlasRecorder& recorder() {
  static simulated::BlasRecorder all;
  return all;
}

bool is_short(DType dtype) { return dtype == DType::bf16 || dtype == DType::f16; }

bool is_backward(Epilogue epilogue) {
  return epilogue == Epilogue::gelu_backward || epilogue == Epilogue::gelu_backward_bias_gradient;
}

void check_product(const Product& p) {
  check_operand(p.a, p.m, p.k, "a");
  check_operand(p.b, p.k, p.n, "b");
  check_operand(p.c, p.m, p.n, "c");
  LOCKSTEP_CHECK(!p.c.transposed, "product: the result must be stored by rows");
  LOCKSTEP_CHECK(p.a.dtype == p.b.dtype, "product: dtypes ", p.a.dtype, " and ", p.b.dtype);
  LOCKSTEP_CHECK(p.c.dtype == p.a.dtype || (p.c.dtype == DType::f32 && is_short(p.a.dtype)),
                 "product: ", p.a.dtype, " into ", p.c.dtype);
  LOCKSTEP_CHECK(p.batch == 1 || p.c.batch_stride != 0, "product: results on top of each other");
  LOCKSTEP_CHECK(p.batch <= Blas::kMostBatches, "product: ", p.batch, " at a time");
}

void check_epilogue(const Product& p) {
  const bool optional = p.epilogue == Epilogue::relu || p.epilogue == Epilogue::gelu;
  const bool bias = p.epilogue == Epilogue::bias || p.epilogue == Epilogue::bias_gradient ||
                    p.epilogue == Epilogue::gelu_backward_bias_gradient;
  LOCKSTEP_CHECK(
      (optional || bias == (p.bias != nullptr)) && (p.bias == nullptr || p.bias_dtype == p.c.dtype),
      "product: a bias of ", p.bias_dtype, " for a result of ", p.c.dtype);
  LOCKSTEP_CHECK(
      p.epilogue == Epilogue::gelu || is_backward(p.epilogue) == (p.auxiliary != nullptr),
      "product: an epilogue and what it keeps or reads do not belong together");
  if (p.auxiliary != nullptr) {
    LOCKSTEP_CHECK(p.auxiliary_leading % 8 == 0 && p.auxiliary_leading >= p.n &&
                       reinterpret_cast<uintptr_t>(p.auxiliary) % 16 == 0,
                   "product: rows ", p.auxiliary_leading, " apart beside gelu");
  }
  if (p.epilogue == Epilogue::none || p.epilogue == Epilogue::bias) return;
  const bool sums = p.epilogue == Epilogue::bias_gradient;
  const bool single = (sums || p.epilogue == Epilogue::relu) && p.a.dtype == DType::f32;
  LOCKSTEP_CHECK((is_short(p.a.dtype) || single) && p.batch == 1, "product: an epilogue of ",
                 p.a.dtype);
  LOCKSTEP_CHECK(sums || p.c.dtype == p.a.dtype, "product: an activation of ", p.c.dtype);
  LOCKSTEP_CHECK(p.beta == 0 || sums, "product: an activation of what is added to");
}

class SimulatedBlas final : public Blas {
 public:
  void multiply(const Product& p, Queue& queue, const std::function<void()>& in_steps) override {
    check_product(p);
    check_epilogue(p);
    if (recorder().refuses && p.epilogue != Epilogue::none) {
      LOCKSTEP_CHECK(in_steps, "product: an epilogue without steps in its place");
      return in_steps();
    }
    if (recorder().records) {
      recorder().products.push_back(p);
      return;
    }
    if (recorder().tiling >= 0 && has_small_product(p, recorder().tiling)) {
      ++recorder().own_products;
      return small_product(p, recorder().tiling, queue);
    }
    do_or_write_down(queue.stream(), [p] {
      const DeviceAccess access;
      for (int64_t i = 0; i < p.batch; ++i) one(p, i);
    });
  }

 private:
  static void one(const Product& p, int64_t index) {
    const Reader a{p.a, index * p.a.batch_stride}, b{p.b, index * p.b.batch_stride},
        c{p.c, index * p.c.batch_stride};
    const Reader bias{{.data = p.bias, .dtype = p.bias_dtype}, 0};
    const Reader auxiliary{
        {.data = p.auxiliary, .dtype = p.c.dtype, .leading = p.auxiliary_leading}, 0};
    const bool adds_bias = p.epilogue == Epilogue::bias || p.epilogue == Epilogue::relu ||
                           p.epilogue == Epilogue::gelu;
    std::vector<double> row(static_cast<size_t>(p.n)), sums(row);
    for (int64_t i = 0; i < p.m; ++i) {
      for (double& sum : row) sum = 0;
      double left_sum = 0;
      for (int64_t k = 0; k < p.k; ++k) {
        const double left = a(i, k);
        left_sum += left;
        for (int64_t j = 0; j < p.n; ++j) row[static_cast<size_t>(j)] += left * b(k, j);
      }
      if (p.epilogue == Epilogue::bias_gradient) bias.put(0, i, left_sum);
      for (int64_t j = 0; j < p.n; ++j) {
        double value = row[static_cast<size_t>(j)];
        if (p.beta != 0) value += p.beta * c(i, j);
        if (adds_bias && p.bias != nullptr) value += bias(0, j);
        if (p.epilogue == Epilogue::relu) value = math::Relu()(value);
        if (p.epilogue == Epilogue::gelu) {
          if (p.auxiliary != nullptr) auxiliary.put(i, j, value);
          value = math::GeluTanh()(value);
        }
        if (is_backward(p.epilogue)) value *= math::GeluTanh().grad(auxiliary(i, j), 0.0)[0];
        sums[static_cast<size_t>(j)] += value;
        c.put(i, j, value);
      }
    }
    if (p.epilogue != Epilogue::gelu_backward_bias_gradient) return;
    for (int64_t j = 0; j < p.n; ++j) bias.put(0, j, sums[static_cast<size_t>(j)]);
  }
};

}  // namespace

std::unique_ptr<Blas> make_blas() { return std::make_unique<SimulatedBlas>(); }

}  // namespace lockstep::cuda

extern "C" __attribute__((visibility("default"))) lockstep::simulated::BlasRecorder*
lockstep_simulated_blas_recorder() {
  return &lockstep::cuda::recorder();
}
