#include <algorithm>
#include <cstring>
#include <mutex>

#include "lockstep/runtime/cpu/elementwise.h"
#include "lockstep/runtime/cpu/row_access.h"
#include "lockstep/runtime/cpu/rows.h"

namespace lockstep::cpu {

void embedding(const Loops&, const View& table, const View& ids, const View& out) {
  const int64_t width = row_width(table);
  const size_t row_bytes = static_cast<size_t>(width) * size_of(table.dtype);
  const int64_t table_stride = table.strides[0] * static_cast<int64_t>(size_of(table.dtype));
  const int64_t* id = ids.as<int64_t>();
  parallel_for(ids.elements(), row_grain(width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(out.as<char>() + static_cast<size_t>(i) * row_bytes,
                  table.as<char>() + id[i] * table_stride, row_bytes);
    }
  });
}

// One thread a slice of the columns: each adds in the order of the ids, so repeated ids sum alike
// whatever the thread count.
void embedding_backward(const Loops& loops, const View& dy, const View& ids, const View& dtable,
                        double beta) {
  if (dtable.elements() == 0) return;
  const int64_t count = ids.elements();
  const int64_t width = row_width(dtable);
  const int64_t* id = ids.as<int64_t>();
  if (!is_floating(dtable.dtype) || size_of(dtable.dtype) == 2) {
    // Sums of 16-bit values are carried in f32 and rounded once.
    const Copy<float> upstream(loops, dy);
    const Copy<float> sums(loops, dtable);
    embedding_backward(loops, upstream.view(), ids, sums.view(), beta);
    return sums.write_back();
  }
  if (beta == 0) fill(loops, dtable, 0);
  if (beta != 0 && beta != 1) scale_add(loops, beta, dtable, 0, dtable);
  with_row_type(dtable.dtype, [&]<class T>(T) {
    constexpr int64_t kColumns = 64;
    const int64_t slices = (width + kColumns - 1) / kColumns;
    const int64_t slice_work = std::max<int64_t>(1, count * kColumns);
    parallel_for(slices, std::max<int64_t>(1, 16 * 1024 / slice_work),
                 [&](int64_t begin, int64_t end) {
                   const int64_t first = begin * kColumns;
                   const int64_t n = std::min(width, end * kColumns) - first;
                   for (int64_t i = 0; i < count; ++i) {
                     loops.of<T>().rows.add(dy.as<T>() + i * width + first,
                                            dtable.as<T>() + id[i] * width + first, n);
                   }
                 });
  });
}

void extent(const View& ids, int64_t* smallest, int64_t* largest) {
  constexpr int64_t kGrain = 32 * 1024;
  const int64_t* id = ids.as<int64_t>();
  std::mutex join;
  int64_t low = id[0], high = id[0];
  parallel_for(ids.elements(), kGrain, [&](int64_t begin, int64_t end) {
    int64_t least = id[begin], most = id[begin];
    for (int64_t i = begin; i < end; ++i) {
      least = std::min(least, id[i]);
      most = std::max(most, id[i]);
    }
    const std::lock_guard lock(join);
    low = std::min(low, least);
    high = std::max(high, most);
  });
  *smallest = low;
  *largest = high;
}

}  // namespace lockstep::cpu
