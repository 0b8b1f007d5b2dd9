#pragma once

#include <cstdint>
#include <memory>

#include "lockstep/runtime/cpu/elementwise.h"
#include "lockstep/runtime/cpu/loops.h"
#include "lockstep/runtime/dtype.h"
#include "lockstep/runtime/view.h"

namespace lockstep::cpu {

// Uninitialised working memory of one kernel call, 64-byte aligned.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(static_cast<T*>(
            ::operator new (static_cast<size_t>(count) * sizeof(T), std::align_val_t{64}))) {}
  ~Scratch() { ::operator delete (data_, std::align_val_t{64}); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T* get() const { return data_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  T* data_;
};

// A row-major copy of a view in the type that a kernel computes in.
template <class T>
class Copy {
 public:
  Copy(const Loops& loops, const View& original)
      : loops_(loops), original_(original), view_(original), memory_(original.elements()) {
    view_.data = memory_.get();
    view_.dtype = dtype_of<T>;
    int64_t stride = 1;
    for (int i = view_.rank - 1; i >= 0; --i) {
      view_.strides[i] = stride;
      stride *= view_.shape[i];
    }
    copy(loops, original, view_);
  }

  T* data() const { return memory_.get(); }
  const View& view() const { return view_; }
  void write_back() const { copy(loops_, view_, original_); }

 private:
  const Loops& loops_;
  View original_;
  View view_;
  Scratch<T> memory_;
};

}  // namespace lockstep::cpu
