#pragma once

#include <algorithm>
#include <optional>
#include <utility>

#include "lockstep/runtime/cpu/convert.h"
#include "lockstep/runtime/cpu/row_access.h"
#include "lockstep/runtime/cpu/scratch.h"

// How loops over [batch, channels, inner] come by their values.
namespace lockstep::cpu {

// Values of one channel, or of whole pixels, that are worked on while they lie in the first-level
// cache; their sums are carried in T, those of the parts in double.
inline constexpr int64_t kPart = 4096;
// Pixels are summed in so many runs at the most, whatever the number of threads.
inline constexpr int64_t kPixelRuns = 64;

// Planes: the inner values of a channel lie side by side. Pixels: all channels of one place do, one
// place after the other.
inline bool is_planes(const View& x) { return x.shape[2] == 1 || x.strides[2] == 1; }

inline bool is_pixels(const View& x) {
  const int64_t channels = x.shape[1], inner = x.shape[2];
  return (channels == 1 || x.strides[1] == 1) && (inner == 1 || x.strides[2] == channels) &&
         (x.shape[0] == 1 || x.strides[0] == channels * inner);
}

// A view in one of the two forms: itself where it has it, else copied to it.
template <class T>
class Form {
 public:
  Form(const Loops& loops, const View& x, bool pixels, bool keep = true) : view_(x), loops_(loops) {
    if (x.data == nullptr || (pixels ? is_pixels(x) : is_planes(x))) return;
    original_ = x;
    View dense = x;
    if (pixels) {
      std::swap(dense.shape[1], dense.shape[2]);
      std::swap(dense.strides[1], dense.strides[2]);
    }
    memory_.emplace(dense.elements());
    int64_t stride = 1;
    for (int i = 2; i >= 0; --i) {
      dense.strides[i] = stride;
      stride *= dense.shape[i];
    }
    dense.data = memory_->get();
    dense.dtype = dtype_of<T>;
    if (pixels) {
      std::swap(dense.shape[1], dense.shape[2]);
      std::swap(dense.strides[1], dense.strides[2]);
    }
    view_ = dense;
    if (keep) copy(loops, x, view_);
  }

  const View& view() const { return view_; }
  void write_back() const {
    if (memory_) copy(loops_, view_, original_);
  }

 private:
  View view_, original_;
  const Loops& loops_;
  std::optional<Scratch<T>> memory_;
};

// Runs of a view's memory as T: in place where they are T, else through scratch for `most` values.
template <class T>
class Runs {
 public:
  Runs(const Loops& loops, const View& view, int64_t most)
      : loops_(loops),
        view_(view),
        direct_(view.dtype == dtype_of<T>),
        staged_(direct_ || view.data == nullptr ? 0 : most) {}

  // Null where the view has no data.
  const T* read(int64_t offset, int64_t n) const {
    if (view_.data == nullptr) return nullptr;
    if (direct_) return view_.as<T>() + offset;
    convert(loops_, address(offset), view_.dtype, 1, staged_.get(), dtype_of<T>, 1, n);
    return staged_.get();
  }
  T* write(int64_t offset) const { return direct_ ? view_.as<T>() + offset : staged_.get(); }
  void done(int64_t offset, int64_t n) const {
    if (direct_) return;
    convert(loops_, staged_.get(), dtype_of<T>, 1, address(offset), view_.dtype, 1, n);
  }

 private:
  void* address(int64_t offset) const {
    return static_cast<char*>(view_.data) + offset * static_cast<int64_t>(size_of(view_.dtype));
  }

  const Loops& loops_;
  const View& view_;
  bool direct_;
  Scratch<T> staged_;
};

// Long planes first: a pixel of few channels has short vectors.
inline bool prefers_pixels(const View& x) {
  return is_pixels(x) && !(is_planes(x) && x.shape[2] >= 16 && x.shape[1] < x.shape[2]);
}

// Where plane `i` of batch * channels starts.
inline int64_t plane_offset(const View& x, int64_t i) {
  return i / x.shape[1] * x.strides[0] + i % x.shape[1] * x.strides[1];
}

inline int64_t plane_grain(const View& x) { return std::max<int64_t>(1, 4 * kPart / x.shape[2]); }

// How pixels are cut: runs are independent, parts of a run are worked on one after the other.
struct PixelCut {
  int64_t pixels, channels, part, run, runs;

  explicit PixelCut(const View& x)
      : pixels(x.shape[0] * x.shape[2]),
        channels(x.shape[1]),
        part(std::clamp<int64_t>(kPart / std::max<int64_t>(1, channels), 16, 64)),
        run(std::max(part * 8, (pixels + kPixelRuns - 1) / kPixelRuns)),
        runs((pixels + run - 1) / run) {}

  // Calls f(first pixel, pixels) for every part of a run.
  template <class F>
  void for_each_part(int64_t i, const F& f) const {
    const int64_t end = std::min(pixels, (i + 1) * run);
    for (int64_t at = i * run; at < end; at += part) f(at, std::min(part, end - at));
  }
};

}  // namespace lockstep::cpu
