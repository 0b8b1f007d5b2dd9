#include "lockstep/runtime/cuda/grid.h"
#include "lockstep/runtime/cuda/kernels/reduce.h"
#include "lockstep/runtime/cuda/kernels/reduce_parts.h"
#include "lockstep/runtime/cuda/kernels/rows.h"
#include "lockstep/runtime/cuda/kernels/spans.h"

namespace lockstep::cuda {
namespace {

template <class C>
struct Candidate {
  C value;
  int64_t index;  // below 0: none
};

// The one that is to be found: NaN first, then by value, then by place.
template <class C>
struct Better {
  bool largest;

  LOCKSTEP_HD Candidate<C> operator()(const Candidate<C>& a, const Candidate<C>& b) const {
    if (a.index < 0) return b;
    if (b.index < 0) return a;
    return precedes(a, b) ? a : b;
  }

 private:
  LOCKSTEP_HD bool precedes(const Candidate<C>& a, const Candidate<C>& b) const {
    const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    if (a_nan != b_nan) return a_nan;
    if (!a_nan && a.value != b.value) return (a.value > b.value) == largest;
    return a.index < b.index;
  }
};

template <class C>
struct Search {
  Operand x;
  Span kept, places;  // of x and of the index
  int64_t stride, count;
  uint32_t outputs;
  Better<C> better;
  int64_t* index;
  uint32_t parts;
  int64_t part_length;
  Candidate<C>* partials;  // [output][part]; null: there is one part
};

// A part of an output's elements by kTeam threads.
template <class C, int kTeam>
struct SearchBody {
  static constexpr int kThreads = 256;
  static constexpr bool kCooperative = kTeam > 1;
  static constexpr int kSharedBytes =
      kTeam == kThreads ? across_block_bytes<Candidate<C>>(kThreads) : 0;
  Search<C> s;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    constexpr int kAhead = 4;
    const uint32_t task = static_cast<uint32_t>(t.block()) * (kThreads / kTeam) +
                          static_cast<uint32_t>(t.index() / kTeam);
    const uint32_t output = task / s.parts;
    if (output >= s.outputs) return;
    const int64_t base = s.kept.offset(output);
    const int64_t begin = (task - output * s.parts) * s.part_length;
    const int64_t end = begin + s.part_length < s.count ? begin + s.part_length : s.count;
    Candidate<C> best{C(0), -1};
    for (int64_t i = begin + t.index() % kTeam; i < end; i += kTeam * kAhead) {
      C values[kAhead];
      for (int a = 0; a < kAhead; ++a) {
        const int64_t here = i + a * kTeam < end ? i + a * kTeam : end - 1;
        values[a] = s.x.template get<C>(base + here * s.stride);
      }
      for (int a = 0; a < kAhead; ++a) {
        if (i + a * kTeam < end) best = s.better(best, Candidate<C>{values[a], i + a * kTeam});
      }
    }
    if constexpr (kTeam == kWarp) best = across_warp(t, best, s.better);
    if constexpr (kTeam == kThreads) {
      best = across_block<kThreads>(t, best, t.template shared<Candidate<C>>(), s.better);
    }
    if (t.index() % kTeam != 0) return;
    if (s.partials != nullptr) {
      s.partials[task] = best;
    } else {
      s.index[s.places.offset(output)] = best.index;
    }
  }
};

// The parts of an output by a warp.
template <class C>
struct PartsBody {
  static constexpr int kThreads = 256;
  static constexpr bool kCooperative = true;
  Search<C> s;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const uint32_t output =
        static_cast<uint32_t>(t.block()) * (kThreads / kWarp) + static_cast<uint32_t>(t.warp());
    if (output >= s.outputs) return;
    Candidate<C> best{C(0), -1};
    for (auto p = static_cast<uint32_t>(t.lane()); p < s.parts; p += kWarp) {
      best = s.better(best, s.partials[int64_t{output} * s.parts + p]);
    }
    best = across_warp(t, best, s.better);
    if (t.lane() == 0) s.index[s.places.offset(output)] = best.index;
  }
};

template <int kTeam, class C>
void launch_search(const Search<C>& search, Queue& queue) {
  using Body = SearchBody<C, kTeam>;
  launch(Body{search},
         {.blocks = divided_up(int64_t{search.outputs} * search.parts, Body::kThreads / kTeam),
          .shared_bytes = Body::kSharedBytes},
         queue);
}

template <class C>
void run(Search<C> search, Queue& queue) {
  constexpr int64_t kByThread = 16, kByWarp = 1024, kManyOutputs = 1 << 14;
  constexpr int64_t kShortest = 8192, kLongest = 1 << 20;
  const bool along_kept = search.kept.rank > 0 && search.kept.strides[0] == 1;
  if (search.count <= kByThread || (along_kept && search.outputs >= kManyOutputs)) {
    return launch_search<1>(search, queue);
  }
  if (search.count <= kByWarp) return launch_search<kWarp>(search, queue);
  const int64_t length = part_length(search.count, search.outputs, kShortest, kLongest);
  if (length >= search.count) return launch_search<256>(search, queue);
  search.part_length = length;
  search.parts = static_cast<uint32_t>(divided_up(search.count, length));
  const Scratch scratch(queue, sizeof(Candidate<C>) * search.outputs * search.parts);
  search.partials = scratch.as<Candidate<C>>();
  launch_search<256>(search, queue);
  using Body = PartsBody<C>;
  launch(Body{search}, {.blocks = divided_up(search.outputs, Body::kThreads / kWarp)}, queue);
}

}  // namespace

void arg_reduce(bool largest, const View& x, int dim, const View& index, Queue& queue) {
  if (index.elements() == 0) return;
  Dimensions kept;
  int outermost = -1;
  for (int d = 0; d < x.rank; ++d) {
    if (d == dim) continue;
    kept.add(x.shape[d], x.strides[d], index.strides[d]);
    if (outermost < 0 || x.shape[d] > x.shape[outermost]) outermost = d;
  }
  if (kept.elements() > kMostIndices) {  // in two halves
    View x_half = x, index_half = index;
    x_half.shape[outermost] = index_half.shape[outermost] = x.shape[outermost] / 2;
    arg_reduce(largest, x_half, dim, index_half, queue);
    const int64_t begin = x.shape[outermost] / 2;
    x_half.shape[outermost] = index_half.shape[outermost] = x.shape[outermost] - begin;
    x_half.data = static_cast<char*>(x.data) +
                  begin * x.strides[outermost] * static_cast<int64_t>(size_of(x.dtype));
    index_half.data = index.as<int64_t>() + begin * index.strides[outermost];
    arg_reduce(largest, x_half, dim, index_half, queue);
    return;
  }
  kept.join();
  with_total_type(x.dtype, [&]<class C>(C) {
    const int64_t count = x.shape[dim];
    run(Search<C>{Operand(x), kept.span(0), kept.span(1), x.strides[dim], count,
                  static_cast<uint32_t>(kept.elements()), Better<C>{largest}, index.as<int64_t>(),
                  1, count, nullptr},
        queue);
  });
}

}  // namespace lockstep::cuda
