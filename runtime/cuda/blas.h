#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/dtype.h"

namespace lockstep::cuda {

// What is done to a product before it is stored. GELU is its tanh form, for 16-bit operands; rows
// of `auxiliary` lie a multiple of 8 elements apart and begin at multiples of 16 bytes. Of f64
// there is a bias alone.
enum class Epilogue : uint8_t {
  none,
  bias,  // + bias of each column of C
  relu,  // max(0, . + bias), which may be absent
  gelu,  // gelu(. + bias), what went into gelu is kept in `auxiliary`; either may be absent
  gelu_backward,                // gelu'(auxiliary) * .
  gelu_backward_bias_gradient,  // and the sums of C's columns so far, into `bias`
  bias_gradient,  // and the sums of A's rows, into `bias`: of a linear layer where A is dy'
};

// C = A B + beta C, row-major: A [m, k], B [k, n], C [m, n], each of them possibly stored as its
// transpose. `leading` is the distance of rows as stored.
struct Product {
  struct Operand {
    void* data = nullptr;
    DType dtype = DType::f32;
    bool transposed = false;
    int64_t leading = 0;
    int64_t batch_stride = 0;  // elements; 0: the same for all
  };
  int64_t m = 0, n = 0, k = 0;
  int64_t batch = 1;
  Operand a, b, c;
  double beta = 0;
  Epilogue epilogue = Epilogue::none;
  void* bias = nullptr;           // [n]; bias_gradient: [m]
  DType bias_dtype = DType::f32;  // C's
  void* auxiliary = nullptr;      // as C, of C's dtype
  int64_t auxiliary_leading = 0;
};

// Matrix products of f64, f32, bf16 and f16; 16-bit ones are summed in f32, and C may be f32 then.
// The seam to cuBLASLt, behind which tests put a recorder.
class Blas {
 public:
  // cuBLASLt takes no more at a time.
  static constexpr int64_t kMostBatches = 65535;

  virtual ~Blas() = default;
  // `in_steps` computes the same without that epilogue, as often as it is called. It takes the
  // product's place where the library has no such product, or has been measured to be slower.
  virtual void multiply(const Product& product, Queue& queue,
                        const std::function<void()>& in_steps = {}) = 0;
};

// Of the device that is the calling thread's own.
std::unique_ptr<Blas> make_blas();

}  // namespace lockstep::cuda
