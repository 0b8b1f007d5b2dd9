#pragma once

#include <math.h>

#include <cstdint>

#include "lockstep/runtime/cuda/kernels/tiles.h"
#include "lockstep/runtime/kernels.h"

// What the forward and the backward kernels of attention share.
namespace lockstep::cuda::own {

// A [batch, heads, time, feature] operand, feature stride 1.
struct Heads {
  void* data = nullptr;
  DType dtype = DType::f32;
  int64_t strides[3] = {};
  int times = 0, features = 0;
  bool packs = false;

  Heads() = default;
  explicit Heads(const View& view)
      : data(view.data),
        dtype(view.dtype),
        times(static_cast<int>(view.shape[2])),
        features(static_cast<int>(view.shape[3])),
        packs(reinterpret_cast<uintptr_t>(view.data) % 16 == 0 && view.shape[3] % kPack == 0) {
    for (int i = 0; i < 3; ++i) {
      strides[i] = view.shape[i] == 1 ? 0 : view.strides[i];
      packs = packs && strides[i] % kPack == 0;
    }
  }
  LOCKSTEP_DEVICE int64_t offset(int64_t batch, int64_t head) const {
    return batch * strides[0] + head * strides[1];
  }
  LOCKSTEP_DEVICE TileSource source(int64_t batch, int64_t head) const {
    return {data, dtype, packs, offset(batch, head), strides[2], times, features};
  }
  // A thread's part of the tile from [first_time, first_feature] on, as multiply_columns made it.
  template <class C>
  LOCKSTEP_DEVICE void put(const Thread& t, int64_t offset, int first_time, int first_feature,
                           const TilePart<C>& part) const {
    using T = Tile<C>;
    LOCKSTEP_UNROLL
    for (int i = 0; i < T::kRows; ++i) {
      const int time = first_time + TilePart<C>::row(t, i);
      if (time >= times) continue;
      LOCKSTEP_UNROLL
      for (int j = 0; j < T::kColumns; ++j) {
        const int feature = first_feature + TilePart<C>::packed_column(t, j);
        if (feature >= features) continue;
        store<C>(data, dtype, offset + time * strides[2] + feature, part.at[i][j]);
      }
    }
  }
};

// Whose scores a block computes.
struct HeadPlace {
  int64_t index, batch, head;
};

template <class C>
struct AttentionProblem {
  using T = Tile<C>;
  static constexpr int kSharedBytes = 3 * T::kBytes;  // two operands and a matrix of scores

  Heads q, k, v;
  const void* bias;
  DType bias_dtype;
  int64_t bias_strides[4];
  int64_t heads;
  int queries, keys;
  bool causal;
  C scale;

  AttentionProblem(const View& query, const View& key, const View& value,
                   const AttentionOptions& options)
      : q(query),
        k(key),
        v(value),
        bias(options.bias.data),
        bias_dtype(options.bias.dtype),
        heads(query.shape[1]),
        queries(static_cast<int>(query.shape[2])),
        keys(static_cast<int>(key.shape[2])),
        causal(options.causal),
        scale(static_cast<C>(options.scale)) {
    for (int i = 0; i < 4; ++i) bias_strides[i] = options.bias.strides[i];
  }

  LOCKSTEP_DEVICE HeadPlace place(int64_t index) const {
    return {index, index / heads, index % heads};
  }

  // The score of a pair from its product; -infinity where the query does not see the key.
  LOCKSTEP_DEVICE C score(C product, const HeadPlace& place, int query, int key) const {
    if (query >= queries || key >= keys || (causal && key > query)) return C(-INFINITY);
    product *= scale;
    if (bias == nullptr) return product;
    const int64_t at = place.batch * bias_strides[0] + place.head * bias_strides[1] +
                       query * bias_strides[2] + key * bias_strides[3];
    return product + bias_value(at);
  }

  // out = a bᵀ, of the tiles that begin at the given rows; leaves shared memory free. `keep`: a's
  // tile may be there from the call before.
  LOCKSTEP_DEVICE void products(const Thread& t, const TileSource& a, int a_row,
                                const TileSource& b, int b_row, bool keep, TilePart<C>& out) const {
    C* const a_tile = t.shared<C>();
    C* const b_tile = a_tile + T::kElements;
    const bool whole = a.columns <= T::kEdge;
    out.clear();
    for (int first = 0; first < a.columns; first += T::kEdge) {
      if (!keep || !whole) load_tile(t, a, a_row, first, a_tile);
      load_tile(t, b, b_row, first, b_tile);
      t.sync();
      const int rest = a.columns - first;
      multiply_rows(t, a_tile, b_tile, rest < T::kEdge ? rest : T::kEdge, out);
      t.sync();
    }
  }

  // out += part b, where part is a matrix of scores and b's tile begins at the given element;
  // leaves shared memory free, but for the first tile.
  LOCKSTEP_DEVICE void accumulate(const Thread& t, const TilePart<C>& part, const TileSource& b,
                                  int b_row, int b_column, TilePart<C>& out) const {
    C* const b_tile = t.shared<C>() + T::kElements;
    C* const scores = b_tile + T::kElements;
    part.put(t, scores);
    load_tile(t, b, b_row, b_column, b_tile);
    t.sync();
    const int rest = b.rows - b_row;
    multiply_columns(t, scores, b_tile, rest < T::kEdge ? rest : T::kEdge, out);
    t.sync();
  }

 private:
  LOCKSTEP_DEVICE C bias_value(int64_t at) const {
    if (bias_dtype == DType::f64) return static_cast<C>(static_cast<const double*>(bias)[at]);
    return static_cast<C>(load<float>(bias, bias_dtype, at));
  }
};

inline int64_t tiles_of(int64_t size, int edge) { return (size + edge - 1) / edge; }

}  // namespace lockstep::cuda::own
