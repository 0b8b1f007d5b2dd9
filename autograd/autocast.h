#pragma once

#include <initializer_list>
#include <utility>
#include <vector>

#include "lockstep/autograd/tensor.h"

namespace lockstep {

// 16-bit copies of f32 masters, each made once and again when its master's values have changed,
// unless who changed them wrote the copy too (an optimizer's kernel: Optimizer::set_copies). One
// copy for a whole storage: of parameters that lie in flat memory, one flat copy. Belongs to one
// thread.
class LowPrecisionCopies {
 public:
  explicit LowPrecisionCopies(DType dtype);

  DType dtype() const { return dtype_; }
  // The window of the copy that `master` (f32) is of its storage; up to date.
  Array of(const Array& master);

  // For who writes masters and copies together: the same window, but only of a copy that exists and
  // is up to date. Empty otherwise, and where the copy is somebody's who provides it.
  Array current(const Array& master) const;
  // The copy of the whole storage has been written, and is what its master is now.
  void mark_current(const Storage& master);

  // From now on `flat` is the copy of all of `master`, and whoever provides it keeps it up to date:
  // the master's memory is never read, nor need it have any (sharded parameters that are gathered
  // in 16 bits). `flat` has as many elements as the master.
  void provide(Ref<Storage> master, Array flat);
  // Forgets the copy of `master`; the next use makes one of its own.
  void withdraw(const Storage& master);

  // Whether there is a copy of what `x` is a window of.
  bool holds(const Array& x) const { return find(x.storage().get()) != nullptr; }
  // Forgets the copies of masters that nobody else holds any more. of() does, when it makes one.
  void drop_unused();
  // Bytes that all copies hold.
  int64_t bytes() const;
  // Storages converted so far, as wholes.
  int64_t conversions() const { return conversions_; }
  // Converts now what its next use would.
  void refresh();
  // Forgets all copies but those that somebody provides; the next uses make them anew.
  void forget();

 private:
  struct Copy {
    Ref<Storage> master;
    Array flat;
    uint64_t version;  // of the master, when the copy was the same
    bool provided = false;
  };
  void refresh(Copy& copy);
  const Copy* find(const Storage* master) const;
  Copy* find(const Storage* master) { return const_cast<Copy*>(std::as_const(*this).find(master)); }
  Array window(const Copy& copy, const Array& master) const;

  DType dtype_;
  std::vector<Copy> copies_;
  int64_t conversions_ = 0;
};

// While one lives, ops of this thread choose their dtype: matrix products, convolutions and
// attention compute in `dtype` (bf16 or f16), what loses too much there in f32, the rest in what
// their operands have (PyTorch's autocast; autocast.cc has the lists, which are those of its
// accelerators: on CPUs PyTorch leaves exp, softmax and norms in 16 bits). f64 is left alone.
// Gradients of f32 parameters stay f32. Parameters are converted once and read from `copies`, which
// outlives the scope; without it, once within the scope. Constants that `copies` holds (frozen
// parameters among others) are read from there too.
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
