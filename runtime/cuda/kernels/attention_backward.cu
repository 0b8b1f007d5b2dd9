#include "lockstep/runtime/cuda/kernels/attention.h"
#include "lockstep/runtime/cuda/kernels/attention_problem.h"
#include "lockstep/runtime/cuda/kernels/rows.h"

// Probabilities are made again from the scores and each query's log_sum_exp. With
// ds = p * (dout vᵀ - delta) * scale and delta = sum(dout * out) of the query:
// dq = ds k, dk = dsᵀ q, dv = pᵀ dout.
namespace lockstep::cuda::own {
namespace {

// delta of each query, by a warp.
template <class C>
struct DeltaBody {
  static constexpr int kThreads = 256;
  static constexpr bool kCooperative = true;

  Heads dout, out;
  C* delta;
  int64_t heads, rows;  // rows: of all heads

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const int64_t row = int64_t{t.block()} * (kThreads / kWarp) + t.warp();
    if (row >= rows) return;
    const int64_t head = row / out.times, query = row % out.times;
    const int64_t from = dout.offset(head / heads, head % heads) + query * dout.strides[2];
    const int64_t with = out.offset(head / heads, head % heads) + query * out.strides[2];
    C sum = C(0);
    for (int i = t.lane(); i < out.features; i += kWarp) {
      sum += load<C>(dout.data, dout.dtype, from + i) * load<C>(out.data, out.dtype, with + i);
    }
    sum = across_warp(t, sum, Sum{});
    if (t.lane() == 0) delta[row] = sum;
  }
};

template <class C>
struct BackwardProblem : AttentionProblem<C> {
  Heads dout;
  const C* log_sum_exp;
  const C* delta;

  LOCKSTEP_DEVICE C probability(C product, const HeadPlace& place, int query, int key,
                                C statistic) const {
    if (statistic == C(-INFINITY)) return C(0);  // a query that sees no key
    return exp(this->score(product, place, query, key) - statistic);
  }
  // Of queries beyond the last: of none.
  LOCKSTEP_DEVICE C statistic(const C* values, const HeadPlace& place, int query) const {
    return query < this->queries ? values[place.index * this->queries + query] : C(-INFINITY);
  }
};

// A block has a tile of queries and of their features, and goes over the tiles of keys.
template <class C>
struct QueryGradientBody {
  using T = Tile<C>;
  static constexpr int kThreads = T::kThreads;
  static constexpr bool kCooperative = true;

  BackwardProblem<C> problem;
  Heads dq;
  int tiles;  // of queries

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const HeadPlace place = problem.place(t.block() / tiles);
    const int first_query = (tiles - 1 - t.block() % tiles) * T::kEdge;
    const int first_feature = t.block_y() * T::kEdge;
    const TileSource q = problem.q.source(place.batch, place.head);
    const TileSource k = problem.k.source(place.batch, place.head);
    const TileSource v = problem.v.source(place.batch, place.head);
    const TileSource dout = problem.dout.source(place.batch, place.head);
    const int seen = problem.causal && first_query + T::kEdge < problem.keys
                         ? first_query + T::kEdge
                         : problem.keys;
    C log_sum_exp[T::kRows], delta[T::kRows];
    LOCKSTEP_UNROLL
    for (int i = 0; i < T::kRows; ++i) {
      const int query = first_query + TilePart<C>::row(t, i);
      log_sum_exp[i] = problem.statistic(problem.log_sum_exp, place, query);
      delta[i] = problem.statistic(problem.delta, place, query);
    }
    TilePart<C> result;
    result.clear();
    for (int first_key = 0; first_key < seen; first_key += T::kEdge) {
      TilePart<C> scores, gradients;
      problem.products(t, q, first_query, k, first_key, false, scores);
      problem.products(t, dout, first_query, v, first_key, false, gradients);
      LOCKSTEP_UNROLL
      for (int i = 0; i < T::kRows; ++i) {
        const int query = first_query + TilePart<C>::row(t, i);
        LOCKSTEP_UNROLL
        for (int j = 0; j < T::kColumns; ++j) {
          const int key = first_key + TilePart<C>::column(t, j);
          const C p = problem.probability(scores.at[i][j], place, query, key, log_sum_exp[i]);
          scores.at[i][j] = p == C(0) ? C(0) : p * (gradients.at[i][j] - delta[i]) * problem.scale;
        }
      }
      problem.accumulate(t, scores, k, first_key, first_feature, result);
    }
    dq.put(t, dq.offset(place.batch, place.head), first_query, first_feature, result);
  }
};

// A block has a tile of keys and of the features of dk and dv, and goes over the tiles of queries.
template <class C>
struct KeyGradientBody {
  using T = Tile<C>;
  static constexpr int kThreads = T::kThreads;
  static constexpr bool kCooperative = true;

  BackwardProblem<C> problem;
  Heads dk, dv;
  int tiles;  // of keys

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const HeadPlace place = problem.place(t.block() / tiles);
    const int first_key = t.block() % tiles * T::kEdge;
    const int first_feature = t.block_y() * T::kEdge;
    const TileSource q = problem.q.source(place.batch, place.head);
    const TileSource k = problem.k.source(place.batch, place.head);
    const TileSource v = problem.v.source(place.batch, place.head);
    const TileSource dout = problem.dout.source(place.batch, place.head);
    TilePart<C> key_result, value_result;
    key_result.clear();
    value_result.clear();
    // Tiles begin at multiples of one size: queries before the first key do not see it.
    for (int first_query = problem.causal ? first_key : 0; first_query < problem.queries;
         first_query += T::kEdge) {
      TilePart<C> scores;  // [key, query]
      problem.products(t, k, first_key, q, first_query, false, scores);
      make_probabilities(t, place, first_key, first_query, scores);
      if (first_feature < dv.features) {
        problem.accumulate(t, scores, dout, first_query, first_feature, value_result);
      }
      if (first_feature >= dk.features) continue;
      TilePart<C> gradients;
      problem.products(t, v, first_key, dout, first_query, false, gradients);
      make_gradients(t, place, first_query, gradients, scores);
      problem.accumulate(t, scores, q, first_query, first_feature, key_result);
    }
    dk.put(t, dk.offset(place.batch, place.head), first_key, first_feature, key_result);
    dv.put(t, dv.offset(place.batch, place.head), first_key, first_feature, value_result);
  }

  LOCKSTEP_DEVICE void make_probabilities(const Thread& t, const HeadPlace& place, int first_key,
                                          int first_query, TilePart<C>& scores) const {
    LOCKSTEP_UNROLL
    for (int j = 0; j < T::kColumns; ++j) {
      const int query = first_query + TilePart<C>::column(t, j);
      const C log_sum_exp = problem.statistic(problem.log_sum_exp, place, query);
      LOCKSTEP_UNROLL
      for (int i = 0; i < T::kRows; ++i) {
        const int key = first_key + TilePart<C>::row(t, i);
        scores.at[i][j] = problem.probability(scores.at[i][j], place, query, key, log_sum_exp);
      }
    }
  }

  // Of the scores, from probabilities and their gradients.
  LOCKSTEP_DEVICE void make_gradients(const Thread& t, const HeadPlace& place, int first_query,
                                      const TilePart<C>& gradients, TilePart<C>& scores) const {
    LOCKSTEP_UNROLL
    for (int j = 0; j < T::kColumns; ++j) {
      const int query = first_query + TilePart<C>::column(t, j);
      const C delta = problem.statistic(problem.delta, place, query);
      LOCKSTEP_UNROLL
      for (int i = 0; i < T::kRows; ++i) {
        const C p = scores.at[i][j];
        scores.at[i][j] = p == C(0) ? C(0) : p * (gradients.at[i][j] - delta) * problem.scale;
      }
    }
  }
};

template <class C>
void run(const View& dout, const View& q, const View& k, const View& v, const View& out,
         const View& log_sum_exp, const AttentionOptions& options, const View& dq, const View& dk,
         const View& dv, Queue& queue) {
  constexpr int kEdge = Tile<C>::kEdge;
  constexpr int kShared = AttentionProblem<C>::kSharedBytes;
  const int64_t heads = q.shape[0] * q.shape[1], rows = heads * q.shape[2];
  const Scratch scratch(queue, static_cast<size_t>(rows) * sizeof(C));
  C* delta = scratch.as<C>();
  constexpr int kRowsOfBlock = DeltaBody<C>::kThreads / kWarp;
  launch(DeltaBody<C>{Heads(dout), Heads(out), delta, q.shape[1], rows},
         {.blocks = tiles_of(rows, kRowsOfBlock)}, queue);

  const BackwardProblem<C> problem{AttentionProblem<C>(q, k, v, options), Heads(dout),
                                   log_sum_exp.as<C>(), delta};
  const int64_t query_tiles = tiles_of(q.shape[2], kEdge), key_tiles = tiles_of(k.shape[2], kEdge);
  const int64_t widest = q.shape[3] > v.shape[3] ? q.shape[3] : v.shape[3];
  launch(
      KeyGradientBody<C>{problem, Heads(dk), Heads(dv), static_cast<int>(key_tiles)},
      {.blocks = key_tiles * heads, .blocks_y = tiles_of(widest, kEdge), .shared_bytes = kShared},
      queue);
  launch(QueryGradientBody<C>{problem, Heads(dq), static_cast<int>(query_tiles)},
         {.blocks = query_tiles * heads,
          .blocks_y = tiles_of(q.shape[3], kEdge),
          .shared_bytes = kShared},
         queue);
}

}  // namespace

void attention_backward(const View& dout, const View& q, const View& k, const View& v,
                        const View& out, const View& log_sum_exp, const AttentionOptions& options,
                        const View& dq, const View& dk, const View& dv, Queue& queue) {
  out.dtype == DType::f64 ? run<double>(dout, q, k, v, out, log_sum_exp, options, dq, dk, dv, queue)
                          : run<float>(dout, q, k, v, out, log_sum_exp, options, dq, dk, dv, queue);
}

}  // namespace lockstep::cuda::own
