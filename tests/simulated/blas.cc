#include "lockstep/runtime/cuda/blas.h"

#include <cmath>
#include <vector>

#include "lockstep/runtime/cuda/access.h"
#include "lockstep/runtime/cuda/grid.h"
#include "lockstep/runtime/error.h"
#include "simulated/recorder.h"

// Products by the book, and every argument checked as cuBLASLt would.
namespace lockstep::cuda {
namespace {

struct Reader {
  const Product::Operand& x;
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

class SimulatedBlas final : public Blas {
 public:
  void multiply(const Product& p, Queue&) override {
    check_operand(p.a, p.m, p.k, "a");
    check_operand(p.b, p.k, p.n, "b");
    check_operand(p.c, p.m, p.n, "c");
    LOCKSTEP_CHECK(!p.c.transposed, "product: the result must be stored by rows");
    LOCKSTEP_CHECK(p.a.dtype == p.b.dtype, "product: dtypes ", p.a.dtype, " and ", p.b.dtype);
    LOCKSTEP_CHECK(p.batch == 1 || p.c.batch_stride != 0, "product: results on top of each other");
    LOCKSTEP_CHECK(p.epilogue == Epilogue::none || p.epilogue == Epilogue::bias,
                   "product: an epilogue that nobody asks for yet");
    LOCKSTEP_CHECK((p.epilogue == Epilogue::bias) == (p.bias != nullptr) &&
                       (p.bias == nullptr || p.bias_dtype == p.c.dtype),
                   "product: a bias of ", p.bias_dtype, " for a result of ", p.c.dtype);
    if (recorder().records) {
      recorder().products.push_back(p);
      return;
    }
    const DeviceAccess access;
    for (int64_t i = 0; i < p.batch; ++i) one(p, i);
  }

 private:
  static void one(const Product& p, int64_t index) {
    const Reader a{p.a, index * p.a.batch_stride}, b{p.b, index * p.b.batch_stride},
        c{p.c, index * p.c.batch_stride};
    std::vector<double> row(static_cast<size_t>(p.n));
    for (int64_t i = 0; i < p.m; ++i) {
      for (double& sum : row) sum = 0;
      for (int64_t k = 0; k < p.k; ++k) {
        const double left = a(i, k);
        for (int64_t j = 0; j < p.n; ++j) row[static_cast<size_t>(j)] += left * b(k, j);
      }
      for (int64_t j = 0; j < p.n; ++j) {
        const double before = p.beta == 0 ? 0 : p.beta * c(i, j);
        const Product::Operand bias{.data = p.bias, .dtype = p.bias_dtype};
        const double shift = p.bias == nullptr ? 0 : Reader{bias, 0}(0, j);
        c.put(i, j, row[static_cast<size_t>(j)] + before + shift);
      }
    }
  }
};

}  // namespace

std::unique_ptr<Blas> make_blas() { return std::make_unique<SimulatedBlas>(); }

}  // namespace lockstep::cuda

extern "C" __attribute__((visibility("default"))) lockstep::simulated::BlasRecorder*
lockstep_simulated_blas_recorder() {
  return &lockstep::cuda::recorder();
}
