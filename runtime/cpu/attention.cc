#include "lockstep/runtime/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lockstep/runtime/cpu/convert.h"
#include "lockstep/runtime/cpu/gemm.h"
#include "lockstep/runtime/cpu/scratch.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::cpu {

namespace {

// Queries that are worked on together: their scores stay in the second-level cache.
constexpr int64_t kQueryBlock = 64;

// Rows of scores lie whole vectors apart.
int64_t score_stride(int64_t keys) { return (keys + 15) / 16 * 16; }

// One head's matrix [time, feature] within a window.
template <class T>
struct Matrix {
  T* data;
  int64_t stride;  // between rows
  T* row(int64_t i) const { return data + i * stride; }
};

template <class T>
Matrix<T> head_of(const View& view, int64_t batch, int64_t head) {
  const int64_t stride = view.shape[2] == 1 ? view.shape[3] : view.strides[2];
  return {view.as<T>() + batch * view.strides[0] + head * view.strides[1], stride};
}

template <class T>
struct Problem {
  const Loops& loops;
  const View& q;
  const View& k;
  const View& v;
  AttentionOptions options;

  int64_t heads() const { return q.shape[1]; }
  int64_t queries() const { return q.shape[2]; }
  int64_t keys() const { return k.shape[2]; }
  int64_t features() const { return q.shape[3]; }
  int64_t values() const { return v.shape[3]; }  // features of v
  // Keys that query i sees.
  int64_t visible(int64_t query) const {
    if (!options.causal) return keys();
    return std::min(query + 1, keys());
  }
  const RowLoops<T>& rows() const { return loops.of<T>().rows; }
  bool biased() const { return options.bias.data != nullptr; }
  // What scores are multiplied by after add_bias.
  T score_scale() const { return biased() ? T(1) : static_cast<T>(options.scale); }

  // What their gradients still lack.
  double remaining_scale() const { return biased() ? options.scale : 1; }

  // scores = scale * scores + bias, for n keys of one query. `memory`: room for keys() values.
  void add_bias(int64_t head, int64_t query, T* scores, int64_t n, T* memory) const {
    if (!biased()) return;
    const View& bias = options.bias;
    const int64_t offset = head / heads() * bias.strides[0] + head % heads() * bias.strides[1] +
                           query * bias.strides[2];
    convert(loops, bias.as<char>() + offset * static_cast<int64_t>(size_of(bias.dtype)), bias.dtype,
            bias.strides[3], memory, dtype_of<T>, 1, n);
    rows().scale_add(T(1), memory, static_cast<T>(options.scale), scores, n);
  }

  // c[count, seen] = a[count, width] @ b[seen, width]^T, rows of c score_stride(seen) apart.
  void against_keys(const T* a, int64_t a_stride, const Matrix<T>& b, int64_t count, int64_t seen,
                    int64_t width, T* c) const {
    const Gemm shape{.m = count,
                     .n = seen,
                     .k = width,
                     .transpose_b = true,
                     .lda = a_stride,
                     .ldb = b.stride,
                     .ldc = score_stride(seen)};
    gemm(loops, shape, a, b.data, c);
  }
  // c[count, width] = alpha * a[count, seen] @ b[seen, width], rows of a score_stride(seen) apart.
  void over_keys(const T* a, const Matrix<T>& b, int64_t count, int64_t seen, int64_t width, T* c,
                 int64_t c_stride, double alpha = 1) const {
    const Gemm shape{.m = count,
                     .n = width,
                     .k = seen,
                     .lda = score_stride(seen),
                     .ldb = b.stride,
                     .ldc = c_stride,
                     .alpha = alpha};
    gemm(loops, shape, a, b.data, c);
  }
  // c[seen, width] = alpha * a[count, seen]^T @ b[count, width] + beta * c.
  void to_keys(const T* a, const T* b, int64_t b_stride, int64_t count, int64_t seen, int64_t width,
               const Matrix<T>& c, double beta, double alpha = 1) const {
    const Gemm shape{.m = seen,
                     .n = width,
                     .k = count,
                     .transpose_a = true,
                     .lda = score_stride(seen),
                     .ldb = b_stride,
                     .ldc = c.stride,
                     .alpha = alpha,
                     .beta = beta};
    gemm(loops, shape, a, b, c.data);
  }
};

template <class T>
struct Forward : Problem<T> {
  const View& out;
  const View& log_sum_exp;

  void block(int64_t head, int64_t begin, int64_t end, T* scores, T* bias) const {
    const int64_t batch = head / this->heads();
    const int64_t local = head % this->heads();
    const auto queries = head_of<T>(this->q, batch, local);
    const auto keys = head_of<T>(this->k, batch, local);
    const auto values = head_of<T>(this->v, batch, local);
    const auto result = head_of<T>(out, batch, local);
    T* statistics = log_sum_exp.as<T>() + head * this->queries();
    const int64_t seen = this->visible(end - 1);
    const int64_t stride = score_stride(seen);
    this->against_keys(queries.row(begin), queries.stride, keys, end - begin, seen,
                       this->features(), scores);
    T sums[kQueryBlock] = {};
    for (int64_t i = begin; i < end; ++i) {
      T* row = scores + (i - begin) * stride;
      const int64_t n = this->visible(i);
      this->add_bias(head, i, row, n, bias);
      T maximum = 0;
      T& sum = sums[i - begin];
      sum = this->rows().attention_exponentials(row, this->score_scale(), &maximum, n, stride);
      if (maximum == -std::numeric_limits<T>::infinity()) {  // the bias hides every key
        std::fill(row, row + stride, T(0));
        sum = 0;
      }
      statistics[i] = maximum + std::log(sum);
    }
    this->over_keys(scores, values, end - begin, seen, this->values(), result.row(begin),
                    result.stride);
    for (int64_t i = begin; i < end; ++i) {
      const T sum = sums[i - begin];
      this->rows().scale_add(sum == T(0) ? T(0) : 1 / sum, result.row(i), T(0), result.row(i),
                             this->values());
    }
  }

  void operator()() const {
    const int64_t blocks = (this->queries() + kQueryBlock - 1) / kQueryBlock;
    const int64_t heads = this->q.shape[0] * this->heads();
    parallel_for(heads * blocks, 1, [&](int64_t begin, int64_t end) {
      const Scratch<T> scores(std::min(kQueryBlock, this->queries()) * score_stride(this->keys()));
      const Scratch<T> bias(this->biased() ? this->keys() : 0);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first = task % blocks * kQueryBlock;
        block(task / blocks, first, std::min(this->queries(), first + kQueryBlock), scores.get(),
              bias.get());
      }
    });
  }
};

template <class T>
struct Backward : Problem<T> {
  const View& dout;
  const View& out;
  const View& log_sum_exp;
  const View& dq;
  const View& dk;
  const View& dv;

  // Blocks go from the last queries, which see the most keys, to the first: so each key's gradient
  // is written by the first block and added to by the rest.
  void head(int64_t head, T* scores, T* dscores, T* bias) const {
    for (const View* view : {&dk, &dv}) {
      const auto unseen = head_of<T>(*view, head / this->heads(), head % this->heads());
      for (int64_t j = this->visible(this->queries() - 1); j < this->keys(); ++j) {
        std::fill(unseen.row(j), unseen.row(j) + view->shape[3], T(0));
      }
    }
    const int64_t blocks = (this->queries() + kQueryBlock - 1) / kQueryBlock;
    for (int64_t i = blocks - 1; i >= 0; --i) {
      const int64_t begin = i * kQueryBlock;
      const int64_t end = std::min(this->queries(), begin + kQueryBlock);
      block(head, begin, end, i == blocks - 1 ? 0 : 1, scores, dscores, bias);
    }
  }

  void block(int64_t head, int64_t begin, int64_t end, double beta, T* scores, T* dscores,
             T* bias) const {
    const int64_t batch = head / this->heads();
    const int64_t local = head % this->heads();
    const auto queries = head_of<T>(this->q, batch, local);
    const auto keys = head_of<T>(this->k, batch, local);
    const auto values = head_of<T>(this->v, batch, local);
    const auto upstream = head_of<T>(dout, batch, local);
    const auto dqueries = head_of<T>(dq, batch, local);
    const auto dkeys = head_of<T>(dk, batch, local);
    const auto dvalues = head_of<T>(dv, batch, local);
    const int64_t count = end - begin;
    const int64_t seen = this->visible(end - 1);
    const int64_t stride = score_stride(seen);
    this->against_keys(queries.row(begin), queries.stride, keys, count, seen, this->features(),
                       scores);
    this->against_keys(upstream.row(begin), upstream.stride, values, count, seen, this->values(),
                       dscores);
    score_gradients(head, begin, end, stride, scores, dscores, bias);
    this->to_keys(scores, upstream.row(begin), upstream.stride, count, seen, this->values(),
                  dvalues, beta);
    this->to_keys(dscores, queries.row(begin), queries.stride, count, seen, this->features(), dkeys,
                  beta, this->remaining_scale());
    this->over_keys(dscores, keys, count, seen, this->features(), dqueries.row(begin),
                    dqueries.stride, this->remaining_scale());
  }

  // From scores and d(probabilities) to probabilities and d(scores):
  // ds = p * (dp - sum(dout * out)) * score_scale.
  void score_gradients(int64_t head, int64_t begin, int64_t end, int64_t stride, T* scores,
                       T* dscores, T* bias) const {
    const auto upstream = head_of<T>(dout, head / this->heads(), head % this->heads());
    const auto result = head_of<T>(out, head / this->heads(), head % this->heads());
    const T* statistics = log_sum_exp.as<T>() + head * this->queries();
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = this->visible(i);
      T* row = scores + (i - begin) * stride;
      T* drow = dscores + (i - begin) * stride;
      if (statistics[i] == -std::numeric_limits<T>::infinity()) {
        std::fill(row, row + stride, T(0));
        std::fill(drow, drow + stride, T(0));
        continue;
      }
      const T delta =
          static_cast<T>(this->rows().dot(upstream.row(i), result.row(i), this->values()));
      this->add_bias(head, i, row, n, bias);
      this->rows().attention_gradients(row, drow, this->score_scale(), statistics[i], delta, n,
                                       stride);
    }
  }

  void operator()() const {
    parallel_for(this->q.shape[0] * this->heads(), 1, [&](int64_t begin, int64_t end) {
      const int64_t size = std::min(kQueryBlock, this->queries()) * score_stride(this->keys());
      const Scratch<T> scores(size);
      const Scratch<T> dscores(size);
      const Scratch<T> bias(this->biased() ? this->keys() : 0);
      for (int64_t i = begin; i < end; ++i) head(i, scores.get(), dscores.get(), bias.get());
    });
  }
};

// Rows that do not overlap, as the matrix products need them.
bool has_separate_rows(const View& view) {
  return view.shape[2] == 1 || view.strides[2] >= view.shape[3];
}

}  // namespace

void attention(const Loops& loops, const View& q, const View& k, const View& v,
               AttentionOptions options, const View& out, const View& log_sum_exp) {
  if (out.elements() == 0) return;
  if (k.elements() == 0) {
    fill(loops, out, 0);
    return fill(loops, log_sum_exp, -std::numeric_limits<double>::infinity());
  }
  const bool native = out.dtype == DType::f32 || out.dtype == DType::f64;
  if (!native) {
    const Copy<float> wide_q(loops, q), wide_k(loops, k), wide_v(loops, v), wide_out(loops, out);
    attention(loops, wide_q.view(), wide_k.view(), wide_v.view(), options, wide_out.view(),
              log_sum_exp);
    return wide_out.write_back();
  }
  const auto run = [&]<class T>(T) {
    if (has_separate_rows(q) && has_separate_rows(k) && has_separate_rows(v)) {
      Forward<T>{{loops, q, k, v, options}, out, log_sum_exp}();
    } else {
      const Copy<T> dense_q(loops, q), dense_k(loops, k), dense_v(loops, v);
      Forward<T>{
          {loops, dense_q.view(), dense_k.view(), dense_v.view(), options}, out, log_sum_exp}();
    }
  };
  out.dtype == DType::f64 ? run(double{}) : run(float{});
}

void attention_backward(const Loops& loops, const View& dout, const View& q, const View& k,
                        const View& v, const View& out, const View& log_sum_exp,
                        AttentionOptions options, const View& dq, const View& dk, const View& dv) {
  if (q.elements() == 0 || k.elements() == 0 || v.elements() == 0) {
    for (const View* view : {&dq, &dk, &dv}) fill(loops, *view, 0);
    return;
  }
  const bool native = out.dtype == DType::f32 || out.dtype == DType::f64;
  if (!native) {
    const Copy<float> wide_dout(loops, dout), wide_q(loops, q), wide_k(loops, k), wide_v(loops, v),
        wide_out(loops, out), wide_dq(loops, dq), wide_dk(loops, dk), wide_dv(loops, dv);
    attention_backward(loops, wide_dout.view(), wide_q.view(), wide_k.view(), wide_v.view(),
                       wide_out.view(), log_sum_exp, options, wide_dq.view(), wide_dk.view(),
                       wide_dv.view());
    for (const auto* gradient : {&wide_dq, &wide_dk, &wide_dv}) gradient->write_back();
    return;
  }
  const auto run = [&]<class T>(T) {
    const bool separate = has_separate_rows(dout) && has_separate_rows(q) && has_separate_rows(k) &&
                          has_separate_rows(v);
    if (separate) {
      Backward<T>{{loops, q, k, v, options}, dout, out, log_sum_exp, dq, dk, dv}();
    } else {
      const Copy<T> dense_dout(loops, dout), dense_q(loops, q), dense_k(loops, k),
          dense_v(loops, v);
      Backward<T>{{loops, dense_q.view(), dense_k.view(), dense_v.view(), options},
                  dense_dout.view(),
                  out,
                  log_sum_exp,
                  dq,
                  dk,
                  dv}();
    }
  };
  out.dtype == DType::f64 ? run(double{}) : run(float{});
}

}  // namespace lockstep::cpu
