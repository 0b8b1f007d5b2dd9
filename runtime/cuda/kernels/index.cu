#include "lockstep/runtime/cuda/kernels/index.h"

#include <vector>

#include "lockstep/runtime/cuda/kernels/dimensions.h"
#include "lockstep/runtime/cuda/kernels/elements.h"
#include "lockstep/runtime/cuda/kernels/operand.h"
#include "lockstep/runtime/cuda/kernels/rows.h"

namespace lockstep::cuda {
struct Extent {
  int64_t smallest, largest;
};

struct JoinExtents {
  LOCKSTEP_HD Extent operator()(const Extent& a, const Extent& b) const {
    return {a.smallest < b.smallest ? a.smallest : b.smallest,
            a.largest > b.largest ? a.largest : b.largest};
  }
};

struct ExtentBody {
  static constexpr int kThreads = kElementThreads;
  static constexpr bool kCooperative = true;
  const int64_t* ids;
  int64_t count;
  Extent* parts;  // of each block

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    Extent found{ids[0], ids[0]};
    const int64_t step = int64_t{t.blocks()} * kThreads;
    for (int64_t i = int64_t{t.block()} * kThreads + t.index(); i < count; i += step) {
      found = JoinExtents()(found, {ids[i], ids[i]});
    }
    found = across_block<kThreads>(t, found, t.shared<Extent>(), JoinExtents());
    if (t.index() == 0) parts[t.block()] = found;
  }
};

namespace {

// out = x[.., index, ..]. Word: of the elements' size, or 16 bytes of a run that one index moves.
// Operands of the layout: out, index, and x standing still in the dimension that index chooses.
template <class Word>
struct GatherBody {
  const Word* x;
  const int64_t* index;
  Word* out;
  int64_t step;
  Strided<3> layout;

  LOCKSTEP_HD void one(uint32_t i) const {
    int64_t at[3];
    layout.offsets(i, at);
    out[at[0]] = x[at[2] + index[at[1]] * step];
  }
};

template <class Word>
void gather_words(const View (&views)[3], int64_t step, Queue& queue) {
  const View* const operands[] = {&views[0], &views[1], &views[2]};
  launch_elements(GatherBody<Word>{views[2].as<Word>(), views[1].as<int64_t>(), views[0].as<Word>(),
                                   step, Strided<3>(operands)},
                  views[0].elements(), queue);
}

// In words of 16 bytes.
View in_words(const View& view, int64_t elements) {
  View words = view;
  const int last = view.rank - 1;
  words.shape[last] /= elements;
  for (int d = 0; d < last; ++d) words.strides[d] /= elements;
  return words;
}

void gather_part(const View (&part)[3], int64_t step, Queue& queue) {
  View views[] = {part[0], part[1], part[2]};
  sort_dimensions(views);
  const auto size = static_cast<int64_t>(size_of(views[0].dtype));
  const int64_t packed = static_cast<int64_t>(sizeof(Sixteen)) / size;
  const int last = views[0].rank - 1;
  if (has_packs(views[0], packed) && has_packs(views[2], packed) && step % packed == 0 &&
      views[1].strides[last] == 0) {
    views[0] = in_words(views[0], packed);
    views[2] = in_words(views[2], packed);
    views[1].shape[last] /= packed;
    return gather_words<Sixteen>(views, step / packed, queue);
  }
  switch (size) {
    case 1: return gather_words<uint8_t>(views, step, queue);
    case 2: return gather_words<uint16_t>(views, step, queue);
    case 4: return gather_words<uint32_t>(views, step, queue);
    default: return gather_words<uint64_t>(views, step, queue);
  }
}

// y = the sparse matrix applied to x, kWide neighbours of the other dimensions at once. Operands of
// the layout: y, x standing still, and y's place in the dimension that the matrix changes.
template <class C, int kWide>
struct ResampleBody {
  Operand x, y;
  const int64_t* starts;
  const int64_t* columns;
  const double* weights;
  int64_t step;
  Strided<3> layout;

  LOCKSTEP_HD void one(uint32_t index) const {
    int64_t at[3];
    layout.offsets(index, at);
    double sums[kWide] = {};
    const int64_t end = starts[at[2] + 1];
    for (int64_t t = starts[at[2]]; t < end; ++t) {
      const int64_t from = at[1] + columns[t] * step;
      const double weight = weights[t];
      C values[kWide];
      if constexpr (kWide == kPack) {
        load_pack(x.data, x.dtype, from, values);
      } else {
        values[0] = x.get<C>(from);
      }
      for (int i = 0; i < kWide; ++i) sums[i] += weight * static_cast<double>(values[i]);
    }
    C values[kWide];
    for (int i = 0; i < kWide; ++i) values[i] = static_cast<C>(sums[i]);
    if constexpr (kWide == kPack) {
      store_pack(y.data, y.dtype, at[0], values);
    } else {
      y.put<C>(at[0], values[0]);
    }
  }
};

template <class C, int kWide>
void resample_part(const View (&views)[3], int64_t step, const SparseRows& matrix, Queue& queue) {
  const View* const operands[] = {&views[0], &views[1], &views[2]};
  launch_elements(ResampleBody<C, kWide>{Operand(views[1]), Operand(views[0]),
                                         views[2].as<int64_t>(), matrix.columns.as<int64_t>(),
                                         matrix.weights.as<double>(), step, Strided<3>(operands)},
                  views[0].elements(), queue);
}

// Of y, x standing still, and the rows of the matrix.
void resample_of(const View (&part)[3], int64_t step, const SparseRows& matrix, Queue& queue) {
  View views[] = {part[0], part[1], part[2]};
  sort_dimensions(views);
  const int last = views[0].rank - 1;
  if (part[0].dtype == DType::f64) return resample_part<double, 1>(views, step, matrix, queue);
  if (has_packs(views[0], kPack) && has_packs(views[1], kPack) && step % kPack == 0 &&
      views[2].strides[last] == 0) {
    for (int i = 0; i < 2; ++i) views[i] = first_of_packs(views[i], kPack);
    views[2].shape[last] /= kPack;
    return resample_part<float, kPack>(views, step, matrix, queue);
  }
  resample_part<float, 1>(views, step, matrix, queue);
}

}  // namespace

void gather(const View& x, int dim, const View& index, const View& out, Queue& queue) {
  if (out.elements() == 0) return;
  View standing = x;
  standing.shape[dim] = index.shape[dim];
  standing.strides[dim] = 0;
  const View views[] = {out, index, standing};
  for_parts(views, [&](const View(&part)[3]) { gather_part(part, x.strides[dim], queue); });
}

void embedding(const View& table, const View& ids, const View& out, Queue& queue) {
  View index = out;
  index.data = ids.data;
  index.dtype = ids.dtype;
  index.strides[0] = 1;
  index.strides[1] = 0;
  gather(table, 0, index, out, queue);
}

void extent(const View& ids, int64_t* smallest, int64_t* largest, Queue& queue) {
  constexpr int64_t kMostBlocks = 256;
  const int64_t count = ids.elements();
  const int64_t needed = (count + kElementThreads - 1) / kElementThreads;
  const int64_t blocks = needed < kMostBlocks ? needed : kMostBlocks;
  const Scratch parts(queue, static_cast<size_t>(blocks) * sizeof(Extent));
  launch(ExtentBody{ids.as<int64_t>(), count, parts.as<Extent>()},
         {.blocks = blocks, .shared_bytes = across_block_bytes<Extent>(kElementThreads)}, queue);
  Extent found[kMostBlocks];
  queue.read(found, parts.as<Extent>(), static_cast<size_t>(blocks) * sizeof(Extent));
  for (int64_t i = 1; i < blocks; ++i) found[0] = JoinExtents()(found[0], found[i]);
  *smallest = found[0].smallest;
  *largest = found[0].largest;
}

void resample(const View& x, int dim, const SparseRows& matrix, const View& y, Queue& queue) {
  if (y.elements() == 0) return;
  View standing = x, row = y;
  standing.shape[dim] = y.shape[dim];
  standing.strides[dim] = 0;
  row.data = matrix.starts.data;
  row.dtype = matrix.starts.dtype;
  for (int d = 0; d < y.rank; ++d) row.strides[d] = d == dim ? 1 : 0;
  const View views[] = {y, standing, row};
  for_parts(views, [&](const View(&part)[3]) { resample_of(part, x.strides[dim], matrix, queue); });
}

}  // namespace lockstep::cuda
