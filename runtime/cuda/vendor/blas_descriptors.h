#pragma once

#include <cublasLt.h>

#include <array>
#include <cstdint>

#include "lockstep/runtime/cuda/blas.h"
#include "lockstep/runtime/cuda/vendor/check.h"

// Products in cuBLASLt's words. Part of blas.cc.
namespace lockstep::cuda {

inline void check(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) [[likely]]
    return;
  fail({call, ": ", cublasLtGetStatusName(status), ": ", cublasLtGetStatusString(status)});
}

inline cudaDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return CUDA_R_64F;
    case DType::bf16: return CUDA_R_16BF;
    case DType::f16: return CUDA_R_16F;
    default: return CUDA_R_32F;
  }
}

inline cublasLtEpilogue_t epilogue_of(const Product& p) {
  switch (p.epilogue) {
    case Epilogue::bias: return CUBLASLT_EPILOGUE_BIAS;
    case Epilogue::relu:
      return p.bias == nullptr ? CUBLASLT_EPILOGUE_RELU : CUBLASLT_EPILOGUE_RELU_BIAS;
    case Epilogue::gelu:
      if (p.auxiliary == nullptr) {
        return p.bias == nullptr ? CUBLASLT_EPILOGUE_GELU : CUBLASLT_EPILOGUE_GELU_BIAS;
      }
      return p.bias == nullptr ? CUBLASLT_EPILOGUE_GELU_AUX : CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
    case Epilogue::gelu_backward: return CUBLASLT_EPILOGUE_DGELU;
    case Epilogue::gelu_backward_bias_gradient: return CUBLASLT_EPILOGUE_DGELU_BGRAD;
    // What is B to cuBLASLt is our a; it sums along k.
    case Epilogue::bias_gradient: return CUBLASLT_EPILOGUE_BGRADB;
    default: return CUBLASLT_EPILOGUE_DEFAULT;
  }
}

inline const char* name_of(Epilogue epilogue) {
  switch (epilogue) {
    case Epilogue::bias: return " with bias";
    case Epilogue::relu: return " with relu";
    case Epilogue::gelu: return " with gelu";
    case Epilogue::gelu_backward: return " with gelu's derivative";
    case Epilogue::gelu_backward_bias_gradient:
      return " with gelu's derivative and the bias's gradient";
    case Epilogue::bias_gradient: return " with the bias's gradient";
    default: return "";
  }
}

// For lines of the log and errors.
inline std::string name_of(const Product& p) {
  return concat({p.batch == 1 ? "" : concat({p.batch, " of "}), "[", p.m, ", ", p.k, "] x [", p.k,
                 ", ", p.n, "] of ", p.a.dtype, p.beta == 0 ? " into " : " added to ", p.c.dtype,
                 name_of(p.epilogue)});
}

// The largest power of two, up to 256, that an address and all steps from it are multiples of.
inline int64_t alignment_of(const void* data, int64_t step_bytes = 0) {
  const auto bits = reinterpret_cast<uint64_t>(data) | static_cast<uint64_t>(step_bytes) | 256u;
  return static_cast<int64_t>(bits & (~bits + 1));
}
inline uint32_t alignment_of(const Product::Operand& x) {
  const auto size = static_cast<int64_t>(size_of(x.dtype));
  return static_cast<uint32_t>(alignment_of(x.data, x.batch_stride * size));
}

// What an algorithm depends on.
using Key = std::array<int64_t, 18>;

inline Key key_of(const Product& p) {
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
          int64_t{p.bias != nullptr} | int64_t{p.auxiliary != nullptr} << 1,
          p.auxiliary_leading,
          static_cast<int64_t>(p.bias_dtype) | alignment_of(p.bias) << 8 |
              alignment_of(p.auxiliary) << 20};
}

struct KeyHash {
  size_t operator()(const Key& key) const {
    uint64_t hash = 0;
    for (const int64_t part : key) {
      hash = (hash ^ static_cast<uint64_t>(part)) * 0x9E3779B97F4A7C15u;
      hash ^= hash >> 32;
    }
    return hash;
  }
};

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
inline void describe(Layout& layout, const Product::Operand& x, int64_t rows, int64_t columns,
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

// A product's description and layouts; the addresses in it are those of the last call.
struct Descriptors {
  Description description;
  Layout a, b, c;

  Descriptors(const Product& p, bool tf32) {
    const bool is_double = p.c.dtype == DType::f64;
    const bool is_single = p.a.dtype == DType::f32;
    check(cublasLtMatmulDescCreate(description.made(),
                                   is_double           ? CUBLAS_COMPUTE_64F
                                   : is_single && tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                       : CUBLAS_COMPUTE_32F,
                                   is_double ? CUDA_R_64F : CUDA_R_32F),
          "cublasLtMatmulDescCreate");
    // C' = B' A': what is first to cuBLASLt is our b.
    set(description, CUBLASLT_MATMUL_DESC_TRANSA, p.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(description, CUBLASLT_MATMUL_DESC_TRANSB, p.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    if (p.epilogue != Epilogue::none) {
      set(description, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(p));
    }
    if (p.bias != nullptr) {
      set(description, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(p.bias_dtype));
    }
    if (p.auxiliary != nullptr) {
      set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.auxiliary_leading);
      set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, type_of(p.c.dtype));
    }
    point_at(p);
    describe(a, p.a, p.m, p.k, p.batch);
    describe(b, p.b, p.k, p.n, p.batch);
    describe(c, p.c, p.m, p.n, p.batch);
  }

  void point_at(const Product& p) const {
    if (p.bias != nullptr) set(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
    if (p.auxiliary != nullptr) {
      set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, p.auxiliary);
    }
  }
};

}  // namespace lockstep::cuda
