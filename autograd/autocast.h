#pragma once

#include <initializer_list>
#include <vector>

#include "lockstep/autograd/tensor.h"

namespace lockstep {

// 16-bit copies of f32 masters, each made once and again when its master's values have changed.
// One copy for a whole storage: of parameters that lie in flat memory, one flat copy. Belongs to
// one thread.
class LowPrecisionCopies {
 public:
  explicit LowPrecisionCopies(DType dtype);

  DType dtype() const { return dtype_; }
  // The window of the copy that `master` (f32) is of its storage; up to date.
  Array of(const Array& master);
  // Bytes that all copies hold.
  int64_t bytes() const;

 private:
  struct Copy {
    Ref<Storage> master;
    Array flat;
    uint64_t version;
  };
  static void refresh(Copy& copy);

  DType dtype_;
  std::vector<Copy> copies_;
};

// While one lives, ops of this thread choose their dtype: matrix products, convolutions and
// attention compute in `dtype` (bf16 or f16), what loses too much there in f32, the rest in what
// their operands have (PyTorch's autocast; autocast.cc has the lists, which are those of its
// accelerators: on CPUs PyTorch leaves exp, softmax and norms in 16 bits). f64 is left alone.
// Gradients of f32 parameters stay f32. Parameters are converted once and read from `copies`, which
// outlives the scope; without it, once within the scope.
// Backward passes may run inside or outside: they use the dtypes of their forward pass.
class Autocast {
 public:
  explicit Autocast(DType dtype = DType::bf16);
  explicit Autocast(LowPrecisionCopies& copies);
  // A part that computes as if no autocast were on.
  static Autocast off();
  ~Autocast() { context().autocast = before_; }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  explicit Autocast(AutocastState state) : own_(DType::bf16), before_(context().autocast) {
    context().autocast = state;
  }

  LowPrecisionCopies own_;
  AutocastState before_;
};

namespace internal {
bool autocast_differs(const char* op, std::initializer_list<const Tensor*> inputs);
}

// For those who write ops: whether `op` is on one of the lists and has an input in another dtype
// than its list asks for. Absent inputs may be null or empty.
inline bool autocasts(const char* op, std::initializer_list<const Tensor*> inputs) {
  return context().autocast.on && internal::autocast_differs(op, inputs);
}
// x as `op` wants it; differentiable.
Tensor autocast(const char* op, const Tensor& x);

}  // namespace lockstep
