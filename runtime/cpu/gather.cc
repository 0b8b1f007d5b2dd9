#include "lockstep/runtime/cpu/gather.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "lockstep/runtime/cpu/scratch.h"
#include "lockstep/runtime/cpu/windows.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::cpu {

namespace {

constexpr int64_t kGrain = 16 * 1024;      // values worth a thread
constexpr int64_t kColumnBlock = 512;      // neighbours that a scatter takes through `dim` together
constexpr int64_t kMaskBlock = 64 * 1024;  // bytes of a mask that one task counts

// x as a window of index's shape in which `dim` stands still: its place there comes from index.
View standing(const View& x, const View& index, int dim) {
  View view = x;
  view.shape[dim] = index.shape[dim];
  view.strides[dim] = 0;
  return view;
}

// Word: an unsigned integer of the elements' size. Values are moved, not read.
template <class Word>
void gather_words(const View& x, int dim, const View& index, const View& out) {
  const View from = standing(x, index, dim);
  const Windows all({&from, &index, &out});
  const int64_t* strides[3];
  for (int w = 0; w < 3; ++w) strides[w] = all.windows[w].strides;
  const int last = all.rank - 1;
  const int64_t from_stride = strides[0][last];
  const int64_t index_stride = strides[1][last];
  const int64_t out_stride = strides[2][last];
  const int64_t step = x.strides[dim];
  const bool blocks = index_stride == 0 && from_stride == 1 && out_stride == 1;
  parallel_for(all.elements, kGrain, [&](int64_t begin, int64_t end) {
    for_runs(all, begin, end - begin, [&](const Cursor& at, int64_t, int64_t run) {
      const Word* source = reinterpret_cast<const Word*>(at.pointer(0));
      const int64_t* place = reinterpret_cast<const int64_t*>(at.pointer(1));
      Word* target = reinterpret_cast<Word*>(at.pointer(2));
      if (blocks) {
        std::memcpy(target, source + *place * step, static_cast<size_t>(run) * sizeof(Word));
        return;
      }
      for (int64_t i = 0; i < run; ++i) {
        target[i * out_stride] = source[i * from_stride + place[i * index_stride] * step];
      }
    });
  });
}

// The dimensions of a view other than `dim`.
View without_dim(const View& view, int dim) {
  View rest = view;
  rest.rank = 0;
  for (int i = 0; i < view.rank; ++i) {
    if (i == dim) continue;
    rest.shape[rest.rank] = view.shape[i];
    rest.strides[rest.rank++] = view.strides[i];
  }
  return rest;
}

// T: the type to add in; unsigned for integers, where overflow wraps. Each place outside `dim` is
// one thread's, and takes what is added in the order of i: sums do not depend on the thread count.
template <class T>
void scatter_add_values(const View& x, int dim, const View& index, const View& out) {
  const View rest[3] = {without_dim(x, dim), without_dim(index, dim), without_dim(out, dim)};
  const Windows all({&rest[0], &rest[1], &rest[2]});
  const int last = all.rank - 1;
  const int64_t x_stride = all.windows[0].strides[last];
  const int64_t index_stride = all.windows[1].strides[last];
  const int64_t out_stride = all.windows[2].strides[last];
  const int64_t count = x.shape[dim];
  const int64_t x_step = x.strides[dim];
  const int64_t index_step = index.strides[dim];
  const int64_t out_step = out.strides[dim];
  const bool along = std::abs(out_step) <= std::abs(out_stride);
  const int64_t block = along ? 1 : kColumnBlock;
  parallel_for(all.elements, std::max<int64_t>(1, kGrain / count), [&](int64_t begin, int64_t end) {
    for_runs(all, begin, end - begin, [&](const Cursor& at, int64_t, int64_t run) {
      for (int64_t start = 0; start < run; start += block) {
        const int64_t n = std::min(block, run - start);
        const T* source = reinterpret_cast<const T*>(at.pointer(0)) + start * x_stride;
        const auto* place = reinterpret_cast<const int64_t*>(at.pointer(1)) + start * index_stride;
        T* target = reinterpret_cast<T*>(at.pointer(2)) + start * out_stride;
        for (int64_t i = 0; i < count; ++i) {
          const T* values = source + i * x_step;
          const int64_t* to = place + i * index_step;
          for (int64_t j = 0; j < n; ++j) {
            T& sum = target[j * out_stride + to[j * index_stride] * out_step];
            sum = static_cast<T>(sum + values[j * x_stride]);
          }
        }
      }
    });
  });
}

}  // namespace

void gather(const Loops&, const View& x, int dim, const View& index, const View& out) {
  if (out.elements() == 0) return;
  switch (size_of(x.dtype)) {
    case 1: return gather_words<uint8_t>(x, dim, index, out);
    case 2: return gather_words<uint16_t>(x, dim, index, out);
    case 4: return gather_words<uint32_t>(x, dim, index, out);
    default: return gather_words<uint64_t>(x, dim, index, out);
  }
}

void scatter_add(const Loops& loops, const View& x, int dim, const View& index, const View& out) {
  if (x.elements() == 0) return;
  switch (x.dtype) {
    case DType::f64: return scatter_add_values<double>(x, dim, index, out);
    case DType::f32: return scatter_add_values<float>(x, dim, index, out);
    case DType::i64: return scatter_add_values<uint64_t>(x, dim, index, out);
    case DType::i32: return scatter_add_values<uint32_t>(x, dim, index, out);
    case DType::u8: return scatter_add_values<uint8_t>(x, dim, index, out);
    case DType::boolean: return scatter_add_values<bool>(x, dim, index, out);
    default: {
      // Sums of 16-bit values are carried in f32 and rounded once.
      const Copy<float> values(loops, x);
      const Copy<float> sums(loops, out);
      scatter_add_values<float>(values.view(), dim, index, sums.view());
      sums.write_back();
    }
  }
}

int64_t nonzero(const Loops&, const View& mask, const View& positions) {
  const uint8_t* values = mask.as<uint8_t>();
  const int64_t n = mask.elements();
  const int64_t room = positions.data == nullptr ? 0 : positions.elements();
  const int64_t blocks = (n + kMaskBlock - 1) / kMaskBlock;
  std::vector<int64_t> starts(static_cast<size_t>(blocks + 1));
  parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const uint8_t* first = values + b * kMaskBlock;
      starts[b + 1] = std::count_if(first, values + std::min(n, (b + 1) * kMaskBlock),
                                    [](uint8_t value) { return value != 0; });
    }
  });
  for (int64_t b = 0; b < blocks; ++b) starts[b + 1] += starts[b];
  if (room == 0) return starts[blocks];
  parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      int64_t* place = positions.as<int64_t>() + std::min(room, starts[b]);
      int64_t* const stop = positions.as<int64_t>() + std::min(room, starts[b + 1]);
      for (int64_t i = b * kMaskBlock; place < stop; ++i) {
        *place = i;
        place += values[i] != 0;
      }
    }
  });
  return starts[blocks];
}

}  // namespace lockstep::cpu
