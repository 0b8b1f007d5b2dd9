#include "lockstep/runtime/cuda/blas.h"

#include <cublasLt.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "lockstep/runtime/cuda/vendor/check.h"

namespace lockstep::cuda {
namespace {

// What cuBLAS's documentation advises for Hopper.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;

void check(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) [[likely]]
    return;
  fail({call, ": ", cublasLtGetStatusName(status), ": ", cublasLtGetStatusString(status)});
}

cudaDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return CUDA_R_64F;
    case DType::bf16: return CUDA_R_16BF;
    case DType::f16: return CUDA_R_16F;
    default: return CUDA_R_32F;
  }
}

cublasLtEpilogue_t epilogue_of(Epilogue epilogue, bool with_bias) {
  switch (epilogue) {
    case Epilogue::bias: return CUBLASLT_EPILOGUE_BIAS;
    case Epilogue::gelu:
      return with_bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    case Epilogue::gelu_backward: return CUBLASLT_EPILOGUE_DGELU;
    case Epilogue::bias_gradient: return CUBLASLT_EPILOGUE_BGRADB;
    default: return CUBLASLT_EPILOGUE_DEFAULT;
  }
}

// The largest power of two, up to 256, that an address and all steps from it are multiples of.
int64_t alignment_of(const void* data, int64_t step_bytes = 0) {
  const auto bits = reinterpret_cast<uint64_t>(data) | static_cast<uint64_t>(step_bytes) | 256u;
  return static_cast<int64_t>(bits & (~bits + 1));
}
uint32_t alignment_of(const Product::Operand& x) {
  const auto size = static_cast<int64_t>(size_of(x.dtype));
  return static_cast<uint32_t>(alignment_of(x.data, x.batch_stride * size));
}

template <class Handle, cublasStatus_t (*destroy)(Handle)>
class Owned {
 public:
  Owned() = default;
  ~Owned() {
    if (handle_ != nullptr) destroy(handle_);
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  Handle* made() { return &handle_; }
  Handle get() const { return handle_; }

 private:
  Handle handle_ = nullptr;
};

using Description = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

template <class Value>
void set(const Description& description, cublasLtMatmulDescAttributes_t attribute, Value value) {
  check(cublasLtMatmulDescSetAttribute(description.get(), attribute, &value, sizeof value),
        "cublasLtMatmulDescSetAttribute");
}
template <class Value>
void set(const Layout& layout, cublasLtMatrixLayoutAttribute_t attribute, Value value) {
  check(cublasLtMatrixLayoutSetAttribute(layout.get(), attribute, &value, sizeof value),
        "cublasLtMatrixLayoutSetAttribute");
}
template <class Value>
void set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute,
         Value value) {
  check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof value),
        "cublasLtMatmulPreferenceSetAttribute");
}

// cuBLASLt counts by columns: an operand stored by rows is to it its transpose.
void describe(Layout& layout, const Product::Operand& x, int64_t rows, int64_t columns,
              int64_t batch) {
  const int64_t stored_rows = x.transposed ? rows : columns;
  const int64_t stored_columns = x.transposed ? columns : rows;
  check(cublasLtMatrixLayoutCreate(layout.made(), type_of(x.dtype),
                                   static_cast<uint64_t>(stored_rows),
                                   static_cast<uint64_t>(stored_columns), x.leading),
        "cublasLtMatrixLayoutCreate");
  if (batch == 1) return;
  set(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<int32_t>(batch));
  set(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, x.batch_stride);
}

// What an algorithm depends on.
using Key = std::array<int64_t, 18>;

Key key_of(const Product& p) {
  const auto layout = [](const Product::Operand& x) {
    return static_cast<int64_t>(x.dtype) | int64_t{x.transposed} << 8 |
           static_cast<int64_t>(alignment_of(x)) << 16;
  };
  return {p.m,
          p.n,
          p.k,
          p.batch,
          layout(p.a),
          layout(p.b),
          layout(p.c),
          p.a.leading,
          p.b.leading,
          p.c.leading,
          p.a.batch_stride,
          p.b.batch_stride,
          p.c.batch_stride,
          static_cast<int64_t>(p.epilogue),
          p.beta != 0,
          p.bias != nullptr,
          p.auxiliary_leading,
          static_cast<int64_t>(p.bias_dtype) | alignment_of(p.bias) << 8 |
              alignment_of(p.auxiliary) << 20};
}

class CublasLt final : public Blas {
 public:
  CublasLt() {
    check(cublasLtCreate(&handle_), "cublasLtCreate");
    const char* asked = std::getenv("LOCKSTEP_TF32");
    tf32_ = asked != nullptr && std::strcmp(asked, "1") == 0;
  }
  ~CublasLt() override { cublasLtDestroy(handle_); }

  void multiply(const Product& p, Queue& queue) override {
    const Stream stream = queue.stream();  // the device is this thread's from here on
    const bool is_double = p.c.dtype == DType::f64;
    const bool is_single = p.a.dtype == DType::f32;
    Description description;
    check(cublasLtMatmulDescCreate(description.made(),
                                   is_double            ? CUBLAS_COMPUTE_64F
                                   : is_single && tf32_ ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                        : CUBLAS_COMPUTE_32F,
                                   is_double ? CUDA_R_64F : CUDA_R_32F),
          "cublasLtMatmulDescCreate");
    // C' = B' A': what is first to cuBLASLt is our b.
    set(description, CUBLASLT_MATMUL_DESC_TRANSA, p.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(description, CUBLASLT_MATMUL_DESC_TRANSB, p.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (p.epilogue != Epilogue::none) set_epilogue(description, p);
    Layout a, b, c;
    describe(a, p.a, p.m, p.k, p.batch);
    describe(b, p.b, p.k, p.n, p.batch);
    describe(c, p.c, p.m, p.n, p.batch);
    const cublasLtMatmulAlgo_t algorithm = choose(p, description, a, b, c);
    const Scratch workspace(queue, kWorkspaceBytes);
    const float one = 1, beta = static_cast<float>(p.beta);
    const double one_double = 1;
    check(cublasLtMatmul(
              handle_, description.get(),
              is_double ? static_cast<const void*>(&one_double) : static_cast<const void*>(&one),
              p.b.data, b.get(), p.a.data, a.get(),
              is_double ? static_cast<const void*>(&p.beta) : static_cast<const void*>(&beta),
              p.c.data, c.get(), p.c.data, c.get(), &algorithm, workspace.as<void>(),
              kWorkspaceBytes, stream),
          "cublasLtMatmul");
  }

 private:
  static void set_epilogue(const Description& description, const Product& p) {
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(p.epilogue, p.bias != nullptr));
    if (p.bias != nullptr) {
      set(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
      set(description, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(p.bias_dtype));
    }
    if (p.auxiliary == nullptr) return;
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, p.auxiliary);
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.auxiliary_leading);
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, type_of(p.c.dtype));
  }

  // The library's first choice for the shape, asked for once.
  cublasLtMatmulAlgo_t choose(const Product& p, const Description& description, const Layout& a,
                              const Layout& b, const Layout& c) {
    const Key key = key_of(p);
    const std::lock_guard lock(mutex_);
    const auto known = algorithms_.find(key);
    if (known != algorithms_.end()) return known->second;
    Preference preference;
    check(cublasLtMatmulPreferenceCreate(preference.made()), "cublasLtMatmulPreferenceCreate");
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    // A product in parts is summed in the type that it is computed in.
    set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        uint32_t{CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment_of(p.b));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment_of(p.a));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment_of(p.c));
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment_of(p.c));
    cublasLtMatmulHeuristicResult_t found{};
    int count = 0;
    check(cublasLtMatmulAlgoGetHeuristic(handle_, description.get(), b.get(), a.get(), c.get(),
                                         c.get(), preference.get(), 1, &found, &count),
          "cublasLtMatmulAlgoGetHeuristic");
    LOCKSTEP_CHECK(count > 0, "cuBLASLt has no product [", p.m, ", ", p.k, "] x [", p.k, ", ", p.n,
                   "] of ", p.a.dtype, " into ", p.c.dtype);
    return algorithms_.emplace(key, found.algo).first->second;
  }

  cublasLtHandle_t handle_ = nullptr;
  bool tf32_ = false;
  std::mutex mutex_;
  std::map<Key, cublasLtMatmulAlgo_t> algorithms_;
};

}  // namespace

std::unique_ptr<Blas> make_blas() { return std::make_unique<CublasLt>(); }

}  // namespace lockstep::cuda
