#include "lockstep/runtime/cuda/kernels/attention.h"

#include "lockstep/runtime/cuda/kernels/attention_problem.h"

namespace lockstep::cuda::own {
namespace {

// The value that `join` makes of those of the eight threads that share rows, for all of them.
template <class C, class Join>
LOCKSTEP_DEVICE C across_row(const Thread& t, C value, const Join& join) {
  for (int distance = Tile<C>::kThreadColumns / 2; distance > 0; distance /= 2) {
    value = join(value, t.from_lane_xor(value, distance));
  }
  return value;
}

// A block has a tile of queries and of value features, and goes over the tiles of keys. Each row's
// sum and results are relative to the largest score so far, and scaled anew when a larger one
// comes.
template <class C>
struct AttentionBody {
  using T = Tile<C>;
  static constexpr int kThreads = T::kThreads;
  static constexpr bool kCooperative = true;

  AttentionProblem<C> problem;
  Heads out;
  C* log_sum_exp;
  int tiles;  // of queries

  LOCKSTEP_DEVICE void operator()(const Thread& t) const {
    const HeadPlace place = problem.place(t.block() / tiles);
    // The last queries see the most keys: they come first.
    const int first_query = (tiles - 1 - t.block() % tiles) * T::kEdge;
    const int first_feature = t.block_y() * T::kEdge;
    const TileSource q = problem.q.source(place.batch, place.head);
    const TileSource k = problem.k.source(place.batch, place.head);
    const TileSource v = problem.v.source(place.batch, place.head);
    const int seen = problem.causal && first_query + T::kEdge < problem.keys
                         ? first_query + T::kEdge
                         : problem.keys;
    TilePart<C> result;
    result.clear();
    C maximum[T::kRows], sum[T::kRows];
    LOCKSTEP_UNROLL
    for (int i = 0; i < T::kRows; ++i) {
      maximum[i] = C(-INFINITY);
      sum[i] = C(0);
    }
    for (int first_key = 0; first_key < seen; first_key += T::kEdge) {
      TilePart<C> scores;
      problem.products(t, q, first_query, k, first_key, first_key > 0, scores);
      LOCKSTEP_UNROLL
      for (int i = 0; i < T::kRows; ++i) {
        const int query = first_query + TilePart<C>::row(t, i);
        soften(t, place, query, first_key, scores.at[i], result.at[i], &maximum[i], &sum[i]);
      }
      problem.accumulate(t, scores, v, first_key, first_feature, result);
    }
    LOCKSTEP_UNROLL
    for (int i = 0; i < T::kRows; ++i) {
      const int query = first_query + TilePart<C>::row(t, i);
      sum[i] = across_row(t, sum[i], [](C a, C b) { return a + b; });
      const C inverse = sum[i] == C(0) ? C(0) : C(1) / sum[i];
      LOCKSTEP_UNROLL
      for (C& value : result.at[i]) value *= inverse;
      const bool first = t.index() % T::kThreadColumns == 0 && first_feature == 0;
      if (first && query < problem.queries) {
        log_sum_exp[place.index * problem.queries + query] = maximum[i] + log(sum[i]);
      }
    }
    out.put(t, out.offset(place.batch, place.head), first_query, first_feature, result);
  }

  // One row's products become exponentials.
  LOCKSTEP_DEVICE void soften(const Thread& t, const HeadPlace& place, int query, int first_key,
                              C (&scores)[T::kColumns], C (&result)[T::kColumns], C* maximum,
                              C* sum) const {
    C largest = *maximum;
    LOCKSTEP_UNROLL
    for (int j = 0; j < T::kColumns; ++j) {
      const int key = first_key + TilePart<C>::column(t, j);
      scores[j] = problem.score(scores[j], place, query, key);
      largest = largest < scores[j] ? scores[j] : largest;
    }
    largest = across_row(t, largest, [](C a, C b) { return a < b ? b : a; });
    const bool blind = largest == C(-INFINITY);
    const C origin = blind ? C(0) : largest;
    const C shrink = exp(*maximum - origin);
    *maximum = largest;
    *sum *= shrink;
    LOCKSTEP_UNROLL
    for (C& value : result) value *= shrink;
    LOCKSTEP_UNROLL
    for (int j = 0; j < T::kColumns; ++j) {
      scores[j] = exp(scores[j] - origin);
      *sum += scores[j];
    }
  }
};

template <class C>
void run(const View& q, const View& k, const View& v, const AttentionOptions& options,
         const View& out, const View& log_sum_exp, Queue& queue) {
  using Body = AttentionBody<C>;
  constexpr int kEdge = Tile<C>::kEdge;
  const int64_t tiles = tiles_of(q.shape[2], kEdge);
  const Body body{AttentionProblem<C>(q, k, v, options), Heads(out), log_sum_exp.as<C>(),
                  static_cast<int>(tiles)};
  launch(body,
         {.blocks = tiles * q.shape[0] * q.shape[1],
          .blocks_y = tiles_of(v.shape[3], kEdge),
          .shared_bytes = AttentionProblem<C>::kSharedBytes},
         queue);
}

}  // namespace

void attention(const View& q, const View& k, const View& v, const AttentionOptions& options,
               const View& out, const View& log_sum_exp, Queue& queue) {
  out.dtype == DType::f64 ? run<double>(q, k, v, options, out, log_sum_exp, queue)
                          : run<float>(q, k, v, options, out, log_sum_exp, queue);
}

}  // namespace lockstep::cuda::own
