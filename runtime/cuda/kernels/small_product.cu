#include "lockstep/runtime/cuda/kernels/small_product.h"

#include <cstdint>
#include <limits>
#include <type_traits>

#include "lockstep/runtime/cuda/grid.h"
#include "lockstep/runtime/cuda/kernels/async_copy.h"
#include "lockstep/runtime/cuda/kernels/tiles.h"
#include "lockstep/runtime/math/unary.h"

#if defined(__CUDACC__)
#define LOCKSTEP_PRAGMA(text) _Pragma(#text)
#define LOCKSTEP_UNROLL_BY(count) LOCKSTEP_PRAGMA(unroll(count))
#else
#define LOCKSTEP_UNROLL_BY(count)
#endif

// What such a product takes is mostly waiting: for memory, for other threads. So each group of a
// block's threads, a warp where that is enough, has a share of the terms of the sums for itself,
// the copies of its first stages are on their way at once, and groups wait for each other only when
// their sums are added up.
namespace lockstep::cuda {
namespace {

constexpr int kBlockThreads = 256;
constexpr int kDepth = 32;  // terms in a stage
constexpr int kVector = Vector<float>::kSize;

// A block's tile of kRows x kColumns, of which a thread has kHigh x kWide elements, and so a team
// of threads all. Teams share the terms; a group, a team or a warp of them, shares what it loads.
template <int kRows_, int kColumns_, int kHigh_, int kWide_, int kStages_>
struct Tiling {
  static constexpr int kRows = kRows_, kColumns = kColumns_;
  static constexpr int kHigh = kHigh_, kWide = kWide_;
  static constexpr int kStages = kStages_;  // that a group has room for
  static constexpr int kTeam = kRows / kHigh * (kColumns / kWide);
  static constexpr int kGroup = kTeam < kWarp ? kWarp : kTeam;
  static constexpr int kGroups = kBlockThreads / kGroup;
  static constexpr int kTeams = kGroup / kTeam;  // of a group
  static_assert(kBlockThreads % kColumns == 0 && kRows <= kGroup);
};

// An operand as the sums go through it: lines, rows of A or columns of B, by terms.
struct Lines {
  const float* data;
  int leading;  // of rows as stored
  int count;
  bool aligned;  // rows as stored are whole vectors, on boundaries of them
};

// A stage of an operand in shared memory, which lies as the operand does. A thread takes kOwn of
// its kLines for one vector of terms.
template <int kLines, int kOwn, bool kTermsTogether>
struct Stage {
  static constexpr int kRows = kTermsTogether ? kLines : kDepth;
  static constexpr int kColumns = kTermsTogether ? kDepth : kLines;
  // Lines next to each other begin in other banks.
  static constexpr int kPitch = kTermsTogether ? kDepth + kVector : kLines;
  static constexpr int kElements = kRows * kPitch;
  static constexpr int kThreads = kLines / kOwn;

  float* data;

  // Which one of the lines is the thread's own i-th.
  LOCKSTEP_DEVICE static int line(int thread, int i) {
    if (kTermsTogether) return thread + kThreads * i;
    return (thread + kThreads * (i / kVector)) * kVector + i % kVector;
  }

  struct Part {
    Vector<float> vectors[kOwn];
    LOCKSTEP_DEVICE float at(int i, int term) const {
      if constexpr (kTermsTogether) return vectors[i].at[term];
      return vectors[term * (kOwn / kVector) + i / kVector].at[i % kVector];
    }
  };
  LOCKSTEP_DEVICE Part part(int thread, int term) const {
    constexpr int kAcross = kOwn / kVector;
    Part result;
    LOCKSTEP_UNROLL
    for (int i = 0; i < kOwn; ++i) {
      const int at = kTermsTogether
                         ? line(thread, i) * kPitch + term
                         : (term + i / kAcross) * kPitch + line(thread, i % kAcross * kVector);
      result.vectors[i] = *reinterpret_cast<const Vector<float>*>(data + at);
    }
    return result;
  }
  LOCKSTEP_DEVICE float at(int line, int term) const {
    return data[kTermsTogether ? line * kPitch + term : term * kPitch + line];
  }

  // Begins to fill it with the terms [first_term, end_term); it is zero beyond them and the lines.
  template <int kGroup>
  LOCKSTEP_DEVICE void fill(const Lines& from, int first_line, int first_term, int end_term,
                            int thread) const {
    if (from.aligned) {
      fill_by<kVector, kGroup>(from, first_line, first_term, end_term, thread);
    } else {
      fill_by<1, kGroup>(from, first_line, first_term, end_term, thread);
    }
  }

 private:
  template <int kWidth, int kGroup>
  LOCKSTEP_DEVICE void fill_by(const Lines& from, int first_line, int first_term, int end_term,
                               int thread) const {
    constexpr int kOfRow = kColumns / kWidth;
    constexpr int kRowsAtOnce = kGroup / kOfRow;
    const int row = thread / kOfRow, column = thread % kOfRow * kWidth;
    const int first_row = (kTermsTogether ? first_line : first_term) + row;
    const int first_column = (kTermsTogether ? first_term : first_line) + column;
    const int rows = (kTermsTogether ? from.count : end_term) - first_row;
    const int columns = (kTermsTogether ? end_term : from.count) - first_column;
    const float* read = from.data + int64_t{first_row} * from.leading + first_column;
    float* const to = data + row * kPitch + column;
    LOCKSTEP_UNROLL_BY(kWidth == 1 ? 2 : kRows)
    for (int i = 0; i < kRows; i += kRowsAtOnce) {
      copy_ahead<kWidth * 4>(to + i * kPitch, read, i < rows && columns > 0);
      read += int64_t{kRowsAtOnce} * from.leading;
    }
  }
};

struct Problem {
  Lines a, b;
  float* c;
  int c_leading;
  int k;
  int depth;  // terms of a group
  float beta;
  bool relu;
  const float* bias;  // none: null
  float* row_sums;    // of A, likewise
};

template <class T, bool kATransposed, bool kBTransposed>
struct SmallProduct {
  static constexpr int kThreads = kBlockThreads;
  static constexpr int kLeastBlocks = 2;
  static constexpr bool kCooperative = true;
  using A = Stage<T::kRows, T::kHigh, !kATransposed>;
  using B = Stage<T::kColumns, T::kWide, kBTransposed>;
  static constexpr int kStageElements = A::kElements + B::kElements;
  static constexpr int kGroupElements = kStageElements * T::kStages;
  static constexpr int kSharedBytes = kGroupElements * T::kGroups * static_cast<int>(sizeof(float));
  // In the place of a group's stages, when they are done: the sums of its teams, and of A's rows.
  static constexpr int kPitch = T::kColumns + kVector;
  static constexpr int kTileElements = T::kRows * kPitch;
  static constexpr int kRowSums = kTileElements * T::kTeams;
  static_assert(kRowSums + T::kRows <= kGroupElements);
  // Elements of the tile that a thread finishes, all of one column.
  static constexpr int kElements = T::kRows * T::kColumns;
  static constexpr int kOwn = kElements < kThreads ? 1 : kElements / kThreads;

  Problem p;

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int first_row = t.block_y() * T::kRows, first_column = t.block() * T::kColumns;
    const int index = t.index() & (kThreads - 1);  // it is not negative, the compiler sees
    const int group = index / T::kGroup, thread = index % T::kGroup;
    float* const mine = t.shared<float>() + group * kGroupElements;
    const int begin = group * p.depth;
    const int end = begin + p.depth < p.k ? begin + p.depth : p.k;
    const int steps = (p.depth + kDepth - 1) / kDepth;
    const float bias = bias_of(index, first_column);  // on its way

    float sums[T::kHigh][T::kWide] = {};
    float row_sum = 0;
    for (int step = -T::kStages; step < steps; ++step) {
      const int next = step + T::kStages;
      if (step >= 0) {
        wait_for_batches<T::kStages - 1>();
        sync_group(t);
        const int left = end - begin - step * kDepth;
        multiply(mine + step % T::kStages * kStageElements, thread, left < kDepth ? left : kDepth,
                 t.block() == 0 && p.row_sums != nullptr, sums, row_sum);
        if (next < steps) sync_group(t);
      }
      const int from = begin + next * kDepth;
      if (next < steps && from < end) {
        float* const stage = mine + next % T::kStages * kStageElements;
        A{stage}.template fill<T::kGroup>(p.a, first_row, from, end, thread);
        B{stage + A::kElements}.template fill<T::kGroup>(p.b, first_column, from, end, thread);
      }
      end_batch();
    }
    sync_group(t);
    put(mine, thread, sums);
    if (thread < T::kRows) mine[kRowSums + thread] = row_sum;
    t.sync();
    finish(t.shared<float>(), index, first_row, first_column, bias);
    if (t.block() == 0 && p.row_sums != nullptr)
      finish_row_sums(t.shared<float>(), index, first_row);
  }

 private:
  LOCKSTEP_DEVICE static void sync_group(const Thread& t) {
    if constexpr (T::kGroup == kWarp) {
      t.sync_warp();
    } else {
      t.sync();
    }
  }

  // Where a thread of a team stands. Of four neighbours two share a row and two a column, so that
  // what they read of shared memory is read for both.
  LOCKSTEP_DEVICE static int row_of(int thread) {
    constexpr int kPairs = A::kThreads / 2;
    return (thread & 1) | thread % T::kTeam / 4 % kPairs << 1;
  }
  LOCKSTEP_DEVICE static int column_of(int thread) {
    constexpr int kPairs = A::kThreads / 2;
    return (thread >> 1 & 1) | thread % T::kTeam / 4 / kPairs << 1;
  }

  // Of the column of the elements that the thread finishes.
  LOCKSTEP_DEVICE float bias_of(int index, int first_column) const {
    const int column = first_column + index % T::kColumns;
    return p.bias != nullptr && column < p.b.count ? p.bias[column] : 0;
  }

  LOCKSTEP_DEVICE static void multiply(float* stage, int thread, int terms, bool sums_rows,
                                       float (&sums)[T::kHigh][T::kWide], float& row_sum) {
    const A a{stage};
    const B b{stage + A::kElements};
    const int row = row_of(thread), column = column_of(thread);
    for (int term = thread / T::kTeam * kVector; term < terms; term += T::kTeams * kVector) {
      const auto left = a.part(row, term);
      const auto right = b.part(column, term);
      LOCKSTEP_UNROLL
      for (int u = 0; u < kVector; ++u) {
        LOCKSTEP_UNROLL
        for (int i = 0; i < T::kHigh; ++i) {
          LOCKSTEP_UNROLL
          for (int j = 0; j < T::kWide; ++j) sums[i][j] += left.at(i, u) * right.at(j, u);
        }
      }
    }
    if (!sums_rows || thread >= T::kRows) return;
    LOCKSTEP_UNROLL_BY(8)
    for (int term = 0; term < terms; ++term) row_sum += a.at(thread, term);
  }

  LOCKSTEP_DEVICE static void put(float* group, int thread,
                                  const float (&sums)[T::kHigh][T::kWide]) {
    float* const tile = group + thread / T::kTeam * kTileElements;
    const int row = row_of(thread), column = column_of(thread);
    LOCKSTEP_UNROLL
    for (int i = 0; i < T::kHigh; ++i) {
      float* const to = tile + A::line(row, i) * kPitch;
      LOCKSTEP_UNROLL
      for (int j = 0; j < T::kWide; j += kVector) {
        const Vector<float> four{{sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]}};
        if constexpr (!kBTransposed) {
          *reinterpret_cast<Vector<float>*>(to + B::line(column, j)) = four;
        } else {
          LOCKSTEP_UNROLL
          for (int u = 0; u < kVector; ++u) to[B::line(column, j + u)] = four.at[u];
        }
      }
    }
  }

  // Adds what all teams have, in their order.
  LOCKSTEP_DEVICE void finish(const float* shared, int index, int first_row, int first_column,
                              float bias) const {
    LOCKSTEP_UNROLL
    for (int i = 0; i < kOwn; ++i) {
      const int element = index + i * kThreads;
      const int row = element / T::kColumns, column = element % T::kColumns;
      if (row >= T::kRows || first_row + row >= p.a.count || first_column + column >= p.b.count) {
        continue;
      }
      float sum = 0;
      LOCKSTEP_UNROLL
      for (int group = 0; group < T::kGroups; ++group) {
        LOCKSTEP_UNROLL
        for (int team = 0; team < T::kTeams; ++team) {
          sum += shared[group * kGroupElements + team * kTileElements + row * kPitch + column];
        }
      }
      float& c = p.c[int64_t{first_row + row} * p.c_leading + first_column + column];
      sum += bias;
      if (p.beta != 0) sum += p.beta * c;
      c = p.relu ? math::Relu()(sum) : sum;
    }
  }

  LOCKSTEP_DEVICE void finish_row_sums(const float* shared, int index, int first_row) const {
    if (index >= T::kRows || first_row + index >= p.a.count) return;
    float sum = 0;
    LOCKSTEP_UNROLL
    for (int group = 0; group < T::kGroups; ++group) {
      sum += shared[group * kGroupElements + kRowSums + index];
    }
    p.row_sums[first_row + index] = sum;
  }
};

int64_t quotient_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Calls f with the tiling's type.
template <class F>
auto with_tiling(int tiling, const F& f) {
  switch (tiling) {
    case 0: return f(Tiling<8, 8, 4, 4, 3>{});
    case 1: return f(Tiling<16, 16, 4, 4, 3>{});
    case 2: return f(Tiling<32, 32, 4, 4, 2>{});
    default: return f(Tiling<64, 32, 4, 4, 2>{});
  }
}

Lines lines_of(const Product::Operand& x, int64_t lines, int64_t together) {
  const bool aligned = together % kVector == 0 && x.leading % kVector == 0 &&
                       reinterpret_cast<uintptr_t>(x.data) % sizeof(Vector<float>) == 0;
  return {.data = static_cast<const float*>(x.data),
          .leading = static_cast<int>(x.leading),
          .count = static_cast<int>(lines),
          .aligned = aligned};
}

}  // namespace

bool has_small_product(const Product& p, int tiling) {
  constexpr int64_t kMostBlocks = 640, kMostTerms = 1 << 16;
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  const bool single = p.a.dtype == DType::f32 && p.b.dtype == DType::f32 &&
                      p.c.dtype == DType::f32 && p.bias_dtype == DType::f32;
  const bool epilogue = p.epilogue == Epilogue::none || p.epilogue == Epilogue::bias ||
                        p.epilogue == Epilogue::relu || p.epilogue == Epilogue::bias_gradient;
  if (!single || !epilogue || p.batch != 1 || p.c.transposed) return false;
  if (p.k > kMostTerms || p.a.leading > kMost || p.b.leading > kMost || p.c.leading > kMost)
    return false;
  return with_tiling(tiling, [&]<class T>(T) {
    return quotient_up(p.m, T::kRows) * quotient_up(p.n, T::kColumns) <= kMostBlocks;
  });
}

void small_product(const Product& p, int tiling, Queue& queue) {
  const bool sums_rows = p.epilogue == Epilogue::bias_gradient;
  Problem problem{.a = lines_of(p.a, p.m, p.a.transposed ? p.m : p.k),
                  .b = lines_of(p.b, p.n, p.b.transposed ? p.k : p.n),
                  .c = static_cast<float*>(p.c.data),
                  .c_leading = static_cast<int>(p.c.leading),
                  .k = static_cast<int>(p.k),
                  .depth = 0,
                  .beta = static_cast<float>(p.beta),
                  .relu = p.epilogue == Epilogue::relu,
                  .bias = sums_rows ? nullptr : static_cast<const float*>(p.bias),
                  .row_sums = sums_rows ? static_cast<float*>(p.bias) : nullptr};
  with_tiling(tiling, [&]<class T>(T) {
    // Whole sectors of memory.
    constexpr int kTogether = 8;
    problem.depth = static_cast<int>(quotient_up(p.k, T::kGroups * kTogether)) * kTogether;
    const auto start = [&]<bool kA, bool kB>(std::bool_constant<kA>, std::bool_constant<kB>) {
      using Body = SmallProduct<T, kA, kB>;
      launch(Body{problem},
             {.blocks = quotient_up(p.n, T::kColumns),
              .blocks_y = quotient_up(p.m, T::kRows),
              .shared_bytes = Body::kSharedBytes},
             queue);
    };
    const auto with_a = [&](auto a) {
      p.b.transposed ? start(a, std::true_type{}) : start(a, std::false_type{});
    };
    p.a.transposed ? with_a(std::true_type{}) : with_a(std::false_type{});
  });
}

}  // namespace lockstep::cuda
