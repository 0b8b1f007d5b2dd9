#pragma once

#include <algorithm>
#include <type_traits>

#include "lockstep/runtime/cuda/kernels/reduce_dense.h"
#include "lockstep/runtime/cuda/kernels/reduce_launch.h"
#include "lockstep/runtime/cuda/kernels/reduce_parts.h"

// What reduce_sum.cu and reduce_extremes.cu instantiate.
namespace lockstep::cuda {

template <class Join, class C>
class Reducer {
 public:
  explicit Reducer(Queue& queue) : queue_(queue) {}

  void operator()(Reduction<C> r, const InnerSizes& inner) const {
    constexpr int kItems = kLanesOf<C>;
    const bool along_kept = r.kept.rank > 0 && r.kept.strides[0] == 1 && r.count > 1;
    if (along_kept) {
      r.packed = packed(r.x.data, r.kept, inner.kept, r.reduced, kItems);
      columns(r);
    } else {
      r.packed = packed(r.x.data, r.reduced, inner.reduced, r.kept, kItems);
      rows(r);
    }
  }

 private:
  void rows(const Reduction<C>& r) const {
    constexpr int64_t kByThread = 16, kByWarp = 1024;
    constexpr int64_t kShortest = 8192, kLongest = 65536;
    if (r.count <= kByThread) return launch_rows<1>(r);
    if (r.count <= kByWarp) return launch_rows<kWarp>(r);
    const int64_t length = part_length(r.count, r.outputs, kShortest, kLongest);
    if (length >= r.count) return launch_rows<256>(r);
    Reduction<C> first = r;
    first.part_length = length;
    first.parts = static_cast<uint32_t>(divided_up(r.count, length));
    const Scratch scratch(queue_, sizeof(C) * r.outputs * first.parts);
    first.partials = scratch.as<C>();
    launch_rows<256>(first);
    second(first, Span::line(first.parts), Span::line(1));
  }

  void columns(const Reduction<C>& r) const {
    if constexpr (std::is_same_v<Join, JoinSum> && std::is_same_v<C, float>) {
      if (is_dense(r)) return with_dtype(r, [&]<class T>(T) { dense_columns<T>(r); });
    }
    constexpr int64_t kFewRows = 32, kOutputs = 1 << 16, kManyOutputs = 1 << 20;
    constexpr int64_t kShortest = 128, kLongest = 4096, kLongestAlone = 1024;
    const bool alone = r.outputs >= (r.count <= kFewRows ? kOutputs : kManyOutputs);
    const int64_t tile = alone ? ColumnsBody<Join, C, 1>::kTile : ColumnsBody<Join, C, 32>::kTile;
    const int64_t length = part_length(r.count, divided_up(r.outputs, tile), kShortest,
                                       alone ? kLongestAlone : kLongest);
    Reduction<C> first = r;
    first.part_length = std::min(length, r.count);
    first.parts = static_cast<uint32_t>(divided_up(r.count, first.part_length));
    const auto launch_first = [&] { alone ? launch_columns<1>(first) : launch_columns<32>(first); };
    if (first.parts == 1) return launch_first();
    const Scratch scratch(queue_, sizeof(C) * r.outputs * first.parts);
    first.partials = scratch.as<C>();
    launch_first();
    second(first, Span::line(1), Span::line(r.outputs));
  }

  // Rows enough for DenseColumnsBody to read ahead.
  static bool is_dense(const Reduction<C>& r) {
    constexpr int64_t kFewest = 1024;
    return r.packed && r.kept.rank == 1 && r.reduced.rank == 1 && r.count >= kFewest &&
           r.outputs % kLanesOf<C> == 0;
  }
  template <class F>
  static void with_dtype(const Reduction<C>& r, const F& f) {
    if (r.x.dtype == DType::bf16) return f(BFloat16{});
    if (r.x.dtype == DType::f16) return f(Float16{});
    f(float{});
  }
  template <class T>
  void dense_columns(const Reduction<C>& r) const {
    using Body = DenseColumnsBody<T>;
    // As many blocks as a large device has room for, of rows that are worth it, and not so many
    // that a thread's sum loses digits.
    constexpr int64_t kBlocks = 792, kLongest = 2048;
    constexpr int64_t kShortest = Body::kRowLanes * Body::kAhead;
    const int64_t tiles = divided_up(r.outputs, Body::kTile);
    const int64_t parts = std::max<int64_t>(kBlocks / tiles, 1);
    Reduction<C> first = r;
    first.part_length = std::clamp(divided_up(r.count, parts), kShortest, kLongest);
    first.parts = static_cast<uint32_t>(divided_up(r.count, first.part_length));
    const auto launch_first = [&] {
      launch(Body{first, static_cast<uint32_t>(tiles)},
             {.blocks = tiles * first.parts, .shared_bytes = Body::kSharedBytes}, queue_);
    };
    if (first.parts == 1) return launch_first();
    const Scratch scratch(queue_, sizeof(C) * r.outputs * first.parts);
    first.partials = scratch.as<C>();
    launch_first();
    second(first, Span::line(1), Span::line(r.outputs));
  }

  // Of the parts.
  void second(const Reduction<C>& first, const Span& kept, const Span& reduced) const {
    Reduction<C> r;
    r.x.data = first.partials;
    r.x.dtype = total_dtype<C>();
    r.kept = first.outputs == 1 ? Span() : kept;
    r.reduced = reduced;
    r.outputs = first.outputs;
    r.count = first.parts;
    r.finish = first.finish;
    (*this)(r, {r.outputs, r.count});
  }

  template <int kTeam>
  void launch_rows(Reduction<C> r) const {
    using Body = RowsBody<Join, C, kTeam>;
    if (r.partials == nullptr) r.part_length = r.count;
    launch(Body{r},
           {.blocks = divided_up(int64_t{r.outputs} * r.parts, Body::kThreads / kTeam),
            .shared_bytes = Body::kSharedBytes},
           queue_);
  }
  template <int kRowLanes>
  void launch_columns(const Reduction<C>& r) const {
    using Body = ColumnsBody<Join, C, kRowLanes>;
    const int64_t tiles = divided_up(r.outputs, Body::kTile);
    launch(Body{r, static_cast<uint32_t>(tiles)},
           {.blocks = tiles * r.parts, .shared_bytes = Body::kSharedBytes}, queue_);
  }

  Queue& queue_;
};

template <class Join, class C>
void launch_reduction(const Reduction<C>& reduction, const InnerSizes& inner, Queue& queue) {
  Reducer<Join, C>{queue}(reduction, inner);
}

}  // namespace lockstep::cuda
