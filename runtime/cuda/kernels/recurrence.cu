#include <math.h>

#include <type_traits>

#include "lockstep/runtime/cuda/grid.h"
#include "lockstep/runtime/cuda/kernels/reduce.h"
#include "lockstep/runtime/cuda/kernels/reduce_parts.h"
#include "lockstep/runtime/cuda/kernels/spans.h"

namespace lockstep::cuda {
namespace {

// The running value of what is computed in C: integers wrap.
template <class C>
using Running = std::conditional_t<std::is_same_v<C, int64_t>, uint64_t, double>;

// Lines along the recurrence. `a` without data is 1 everywhere.
struct Lines {
  Operand a, b, s;
  Span places[3];     // of the lines, in a, b and s
  int64_t starts[3];  // from there to where the recurrence begins
  int64_t steps[3];   // and on from one element to the next
  int64_t count = 0;  // of a line
  uint32_t lines = 0;
  bool of_parts = false;  // a and b are what Steps are made of
};

template <class C, bool kScaled>
struct Line {
  using R = Running<C>;
  const Lines& all;
  int64_t at[3];

  LOCKSTEP_HD Line(const Lines& lines, int64_t line) : all(lines) {
    for (int i = 0; i < 3; ++i) at[i] = lines.places[i].offset(line) + lines.starts[i];
  }
  // The first element depends on none before: its factor is 0.
  LOCKSTEP_HD R a(int64_t i) const {
    if constexpr (!kScaled) return R(1);
    return i == 0 ? R(0) : static_cast<R>(all.a.template get<C>(at[0] + i * all.steps[0]));
  }
  LOCKSTEP_HD R b(int64_t i) const {
    return static_cast<R>(all.b.template get<C>(at[1] + i * all.steps[1]));
  }
  LOCKSTEP_HD void put(int64_t i, R value) const {
    all.s.template put<C>(at[2] + i * all.steps[2], static_cast<C>(value));
  }
};

constexpr double kLargest = 1.7976931348623157e308;
constexpr double kOverflowed = 1.7976931348623155e308, kVanished = 1e-323;

// What a run of steps does to the state before it: b + a * state. One by one, finite factors whose
// product overflows or vanishes still take 0 to 0 and infinity to infinity: two numbers stand for
// such products. An infinite factor, which takes 0 to NaN, is infinite. A product that has
// overflowed and meets a 0 is 0, as it is for a state of 0; one by one, other states become NaN.
template <class R, bool kScaled>
struct Steps {
  R a = 1;
  R b = 0;

  LOCKSTEP_HD R operator()(R state) const {
    if constexpr (!kScaled) return state + b;
    if constexpr (kReal) {
      if (replaced(a) && state != 0 && ::fabs(state) <= kLargest) {
        const R limit = ::fabs(a) == kOverflowed ? a + a : R(0);
        return b + (state < 0 ? -limit : limit);
      }
    }
    return b + a * state;
  }
  // First this, then `next`.
  LOCKSTEP_HD Steps then(const Steps& next) const {
    if constexpr (!kScaled) return {R(1), b + next.b};
    return then(next.a, next.b, next(b));
  }
  // First this, then one element.
  LOCKSTEP_HD Steps then(R factor, R term) const {
    if constexpr (!kScaled) return {R(1), b + term};
    return then(factor, term, factor * b + term);
  }

 private:
  static constexpr bool kReal = std::is_same_v<R, double>;

  // `after`: what becomes of b.
  LOCKSTEP_HD Steps then(R factor, R term, R after) const {
    if (a == R(0)) return {R(0), after};
    if constexpr (kReal) {
      if (::fabs(factor) > kLargest) {
        // With terms before it, what the result is depends on the sign of the state: NaN.
        return b == 0 ? Steps{product(factor, a), term} : Steps{factor - factor, after};
      }
      return {product(factor, a), after};
    }
    return {factor * a, after};
  }
  LOCKSTEP_HD static bool replaced(R x) {
    return ::fabs(x) == kOverflowed || ::fabs(x) == kVanished;
  }
  LOCKSTEP_HD static bool ordinary(R x) { return ::fabs(x) > kVanished && ::fabs(x) < kOverflowed; }
  // Of `first`, which is not 0, and the factors after it. What has happened first stays.
  LOCKSTEP_HD static R product(R next, R first) {
    const R both = next * first;
    if (ordinary(next) && ordinary(first) && ordinary(both)) return both;
    if (next == 0) return replaced(first) ? R(0) : both;
    if (!(::fabs(next) <= kLargest)) return ::fabs(first) == kVanished ? next - next : both;
    if (!(::fabs(first) <= kLargest)) return both;
    if (replaced(first)) return next < 0 ? -first : first;
    if (replaced(next)) return first < 0 ? -next : next;
    if (::fabs(both) > kLargest) return ::copysign(kOverflowed, both);
    return both == 0 ? ::copysign(kVanished, both) : both;
  }
};

// The state after an element.
template <class C, bool kScaled, class R = Running<C>>
LOCKSTEP_HD R after(const Lines& lines, R a, R b, R state) {
  if constexpr (!kScaled) return state + b;
  if constexpr (std::is_same_v<C, double>) {
    if (lines.of_parts) return Steps<R, true>{a, b}(state);
  }
  return a * state + b;
}

// A line by a thread.
template <class C, bool kScaled>
struct LinesBody {
  static constexpr int kThreads = 128;
  static constexpr bool kCooperative = false;
  static constexpr int kAhead = 4;
  Lines lines;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    using R = Running<C>;
    const int64_t index = int64_t{t.block()} * kThreads + t.index();
    if (index >= lines.lines) return;
    const Line<C, kScaled> line(lines, index);
    R state = 0;
    for (int64_t i = 0; i < lines.count; i += kAhead) {
      R a[kAhead], b[kAhead];
      for (int k = 0; k < kAhead; ++k) {
        const int64_t here = i + k < lines.count ? i + k : lines.count - 1;
        a[k] = line.a(here);
        b[k] = line.b(here);
      }
      for (int k = 0; k < kAhead; ++k) {
        if (i + k >= lines.count) break;
        state = after<C, kScaled>(lines, a[k], b[k], state);
        line.put(i + k, state);
      }
    }
  }
};

// A part of a line by a block, chunk after chunk (Blelloch 1990, "Prefix sums and their
// applications", on pairs): each thread joins kItems steps, the warps scan the joins, and each
// thread makes its steps from the state that it then knows.
template <class C, bool kScaled>
struct ScanBody {
  using R = Running<C>;
  static constexpr int kThreads = 256;
  static constexpr bool kCooperative = true;
  static constexpr int kItems = 8;
  static constexpr int64_t kChunk = int64_t{kThreads} * kItems;
  static constexpr int kSharedBytes =
      kThreads / kWarp * static_cast<int>(sizeof(Steps<R, kScaled>));
  Lines lines;
  uint32_t parts;
  int64_t part_length;
  // [line][part]: what the parts do, to be found and nothing else; or the states after each part.
  R *found_a, *found_b;
  const R* states;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const auto block = static_cast<uint32_t>(t.block());
    const uint32_t index = block / parts, part = block - index * parts;
    const Line<C, kScaled> line(lines, index);
    const int64_t begin = part * part_length;
    const int64_t end = begin + part_length < lines.count ? begin + part_length : lines.count;
    auto* warps = t.template shared<Steps<R, kScaled>>();
    R state = states != nullptr && part > 0 ? states[block - 1] : R(0);
    Steps<R, kScaled> whole;
    for (int64_t i = begin; i < end; i += kChunk) {
      R a[kItems], b[kItems];
      const int64_t first = i + t.index() * kItems;
      read(line, first, end, a, b);
      Steps<R, kScaled> own;
      for (int k = 0; k < kItems; ++k) {
        own = lines.of_parts ? own.then({a[k], b[k]}) : own.then(a[k], b[k]);
      }
      const Steps<R, kScaled> before = scan(t, own, warps);
      R mine = state;
      for (int w = 0; w < kThreads / kWarp; ++w) {
        if (w == t.warp()) mine = before(state);
        state = warps[w](state);
        whole = whole.then(warps[w]);
      }
      t.sync();
      if (found_b != nullptr) continue;
      for (int k = 0; k < kItems; ++k) {
        mine = after<C, kScaled>(lines, a[k], b[k], mine);
        if (first + k < end) line.put(first + k, mine);
      }
    }
    if (found_b != nullptr && t.index() == 0) {
      found_b[block] = whole.b;
      if constexpr (kScaled) found_a[block] = whole.a;
    }
  }

 private:
  // Steps past the end change nothing.
  LOCKSTEP_HD static void read(const Line<C, kScaled>& line, int64_t first, int64_t end,
                               R (&a)[kItems], R (&b)[kItems]) {
    for (int k = 0; k < kItems; ++k) {
      a[k] = first + k < end ? line.a(first + k) : R(1);
      b[k] = first + k < end ? line.b(first + k) : R(0);
    }
  }
  // The steps of the warp's lanes before this one, and in `warps` those of each whole warp.
  LOCKSTEP_DEVICE static Steps<R, kScaled> scan(const Thread& t, Steps<R, kScaled> own,
                                                Steps<R, kScaled>* warps) {
    for (int distance = 1; distance < kWarp; distance *= 2) {
      const Steps<R, kScaled> left = t.from_lane(own, t.lane() - distance);
      if (t.lane() >= distance) own = left.then(own);
    }
    const Steps<R, kScaled> left = t.from_lane(own, t.lane() - 1);
    if (t.lane() == kWarp - 1) warps[t.warp()] = own;
    t.sync();
    return t.lane() == 0 ? Steps<R, kScaled>() : left;
  }
};

View matrix(void* data, DType dtype, int64_t rows, int64_t columns) {
  View view;
  view.data = data;
  view.dtype = dtype;
  view.rank = 2;
  view.shape[0] = rows;
  view.shape[1] = columns;
  view.strides[0] = columns;
  view.strides[1] = 1;
  return view;
}

void recurrence_of(const View& a, const View& b, int dim, bool reverse, const View& s,
                   bool of_parts, Queue& queue);

template <class C, bool kScaled>
void scan_lines(const Lines& lines, Queue& queue) {
  using Body = ScanBody<C, kScaled>;
  using R = Running<C>;
  constexpr int64_t kShortest = Body::kChunk * 4, kLongest = Body::kChunk * 64;
  const int64_t length = part_length(lines.count, lines.lines, kShortest, kLongest);
  Body body{lines, 1, lines.count, nullptr, nullptr, nullptr};
  if (length < lines.count) {
    body.part_length = length;
    body.parts = static_cast<uint32_t>(divided_up(lines.count, length));
  }
  const Grid grid{.blocks = int64_t{lines.lines} * body.parts, .shared_bytes = Body::kSharedBytes};
  if (body.parts == 1) return launch(body, grid, queue);

  const size_t tasks = size_t{lines.lines} * body.parts;
  const Scratch scratch(queue, 3 * tasks * sizeof(R));
  Body find = body;
  find.found_a = scratch.as<R>();
  find.found_b = find.found_a + tasks;
  launch(find, grid, queue);
  R* states = find.found_b + tasks;
  const auto of_parts = [&](R* data) {
    return matrix(data, total_dtype<C>() == DType::i64 ? DType::i64 : DType::f64, lines.lines,
                  body.parts);
  };
  recurrence_of(kScaled ? of_parts(find.found_a) : View(), of_parts(find.found_b), 1, false,
                of_parts(states), true, queue);
  body.states = states;
  launch(body, grid, queue);
}

template <class C, bool kScaled>
void run(const Lines& lines, bool dense, Queue& queue) {
  constexpr int64_t kFewLines = 4096, kLong = 256, kLongDense = 512;
  if (lines.count >= (lines.lines < kFewLines ? kLong : kLongDense) &&
      (dense || lines.lines < kFewLines)) {
    return scan_lines<C, kScaled>(lines, queue);
  }
  using Body = LinesBody<C, kScaled>;
  launch(Body{lines}, {.blocks = divided_up(lines.lines, Body::kThreads)}, queue);
}

View narrowed(View view, int d, int64_t begin, int64_t length) {
  if (view.data == nullptr) return view;
  view.data = static_cast<char*>(view.data) +
              begin * view.strides[d] * static_cast<int64_t>(size_of(view.dtype));
  view.shape[d] = length;
  return view;
}

void recurrence_of(const View& a, const View& b, int dim, bool reverse, const View& s,
                   bool of_parts, Queue& queue) {
  if (s.elements() == 0) return;
  const View* const views[] = {&a, &b, &s};
  Dimensions kept;
  int largest = -1;
  for (int d = 0; d < s.rank; ++d) {
    if (d == dim) continue;
    if (largest < 0 || s.shape[d] > s.shape[largest]) largest = d;
    kept.add(s.shape[d], s.strides[d], b.strides[d], a.data == nullptr ? 0 : a.strides[d]);
  }
  if (kept.elements() > kMostIndices) {
    const int64_t half = s.shape[largest] / 2, rest = s.shape[largest] - half;
    recurrence_of(narrowed(a, largest, 0, half), narrowed(b, largest, 0, half), dim, reverse,
                  narrowed(s, largest, 0, half), of_parts, queue);
    recurrence_of(narrowed(a, largest, half, rest), narrowed(b, largest, half, rest), dim, reverse,
                  narrowed(s, largest, half, rest), of_parts, queue);
    return;
  }
  kept.join();
  Lines lines;
  lines.a = Operand(a);
  lines.b = Operand(b);
  lines.s = Operand(s);
  lines.count = s.shape[dim];
  lines.lines = static_cast<uint32_t>(kept.elements());
  lines.of_parts = of_parts;
  for (int i = 0; i < 3; ++i) {
    const int64_t stride = views[i]->data == nullptr ? 0 : views[i]->strides[dim];
    lines.places[i] = kept.span(2 - i);
    lines.steps[i] = reverse ? -stride : stride;
    lines.starts[i] = reverse ? stride * (lines.count - 1) : 0;
  }
  const bool dense = s.strides[dim] == 1;
  with_total_type(s.dtype, [&]<class C>(C) {
    a.data == nullptr ? run<C, false>(lines, dense, queue) : run<C, true>(lines, dense, queue);
  });
}

}  // namespace

void recurrence(const View& a, const View& b, int dim, bool reverse, const View& s, Queue& queue) {
  recurrence_of(a, b, dim, reverse, s, false, queue);
}

}  // namespace lockstep::cuda
