#include <algorithm>
#include <cmath>
#include <map>
#include <memory>

#include "lockstep/nn/parallel/communication_hook.h"
#include "lockstep/nn/parallel/error_feedback.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/ops/matmul.h"

namespace lockstep::nn {
namespace {

// One gradient of a bucket as a matrix, and its factors: matrix ≈ p qᵀ.
struct Factored {
  Array matrix;  // [n, m], a window on the bucket
  Array p;       // [n, rank], a window on the flat array of all p
  Array q;       // [m, rank], likewise
};

// Gram-Schmidt, column after column. A column that the others span already becomes zero.
void orthogonalize(const Array& p) {
  for (int64_t j = 0; j < p.dim(1); ++j) {
    const Array column = p.narrow(1, j, 1);
    const auto dot = [&](const Array& other) {
      return kernels::matmul(kernels::contiguous(other).reshape({1, p.dim(0)}),
                             kernels::contiguous(column).reshape({p.dim(0), 1}))
          .reshape({})
          .item();
    };
    const double before = std::sqrt(dot(column));
    for (int64_t k = 0; k < j; ++k) {
      const Array other = p.narrow(1, k, 1);
      kernels::scale_add(-dot(other), other, 1, column);
    }
    const double norm = std::sqrt(dot(column));
    kernels::scale_add(norm > 1e-6 * before ? 1 / norm : 0, column, 0, column);
  }
}

// A column of zeros, from a step whose matrix was zero or of a lower rank, would stay zero for
// ever; and one that an overflow has made infinite, that.
void replace_useless_columns(const Array& q, const Array& fresh) {
  for (int64_t j = 0; j < q.dim(1); ++j) {
    const Array column = kernels::contiguous(q.narrow(1, j, 1));
    const Array row = column.reshape({1, q.dim(0)});
    const double square = kernels::matmul(row, column).reshape({}).item();
    if (square != 0 && std::isfinite(square)) continue;
    kernels::copy_into(fresh.narrow(1, j, 1), q.narrow(1, j, 1));
  }
}

// The state of one bucket: which gradients are factored, their last factors, what was left out.
class BucketPowerSgd {
 public:
  BucketPowerSgd(const GradientBucket& bucket, const PowerSgdOptions& options);
  bool fits(const GradientBucket& bucket) const;
  Work reduce(const GradientBucket& bucket, const PowerSgdOptions& options,
              const std::shared_ptr<ErrorFeedback>& feedback);

 private:
  void draw(const Array& factors, const GradientBucket& bucket, const PowerSgdOptions& options);
  static void gather_plain(const std::vector<Array>& windows, const Array& flat, bool into_flat);

  std::vector<Shape> shapes_;
  std::vector<int> parameters_;
  std::vector<int> factored_, plain_;  // gradients of the bucket
  std::vector<std::pair<int64_t, int64_t>> matrices_;
  int64_t p_elements_ = 0, q_elements_ = 0, plain_elements_ = 0;
  int rank_;
  Array q_;  // flat
};

int64_t columns(const Shape& shape) {
  return shape.rank() == 0 || shape[0] == 0 ? 0 : shape.elements() / shape[0];
}

BucketPowerSgd::BucketPowerSgd(const GradientBucket& bucket, const PowerSgdOptions& options)
    : parameters_(bucket.parameters), rank_(options.rank) {
  for (const Array& gradient : bucket.gradients) {
    const int index = static_cast<int>(shapes_.size());
    shapes_.push_back(gradient.shape());
    const int64_t m = columns(gradient.shape());
    const int64_t n = m == 0 ? 0 : gradient.dim(0);
    if (gradient.rank() >= 2 && (n + m) * rank_ < n * m) {
      factored_.push_back(index);
      matrices_.emplace_back(n, m);
      p_elements_ += n * rank_;
      q_elements_ += m * rank_;
    } else {
      plain_.push_back(index);
      plain_elements_ += gradient.elements();
    }
  }
  const Array& values = bucket.values;
  q_ = Array::empty({q_elements_}, values.dtype(), values.device());
  draw(q_, bucket, options);
}

void BucketPowerSgd::draw(const Array& factors, const GradientBucket& bucket,
                          const PowerSgdOptions& options) {
  const RandomKey key{.seed = options.seed, .operation = static_cast<uint32_t>(bucket.index)};
  kernels::of(factors).normal(factors.view(), 0, 1, key, 0);
}

bool BucketPowerSgd::fits(const GradientBucket& bucket) const {
  return parameters_ == bucket.parameters &&
         std::equal(
             shapes_.begin(), shapes_.end(), bucket.gradients.begin(), bucket.gradients.end(),
             [](const Shape& shape, const Array& gradient) { return shape == gradient.shape(); });
}

void BucketPowerSgd::gather_plain(const std::vector<Array>& windows, const Array& flat,
                                  bool into_flat) {
  int64_t at = 0;
  for (const Array& window : windows) {
    const Array part = flat.narrow(0, at, window.elements()).reshape(window.shape());
    into_flat ? kernels::copy_into(window, part) : kernels::copy_into(part, window);
    at += window.elements();
  }
}

Work BucketPowerSgd::reduce(const GradientBucket& bucket, const PowerSgdOptions& options,
                            const std::shared_ptr<ErrorFeedback>& feedback) {
  const Array values = bucket.values;
  Communicator& communicator = bucket.communicator;
  const CollectiveOptions what{.what = "gradients", .bucket = bucket.index};
  if (options.error_feedback) feedback->add_to(bucket);
  const Array before = options.error_feedback ? kernels::copy(values) : Array();
  const Array fresh = kernels::copy(q_);
  draw(fresh, bucket, options);
  if (!options.warm_start) q_ = fresh;
  // What travels first: the plain gradients, then every p = matrix q.
  const Array first =
      Array::empty({plain_elements_ + p_elements_}, values.dtype(), values.device());
  std::vector<Array> plain;
  for (int index : plain_) plain.push_back(bucket.gradients[static_cast<size_t>(index)]);
  gather_plain(plain, first, true);
  std::vector<Factored> parts;
  int64_t p_at = plain_elements_, q_at = 0;
  for (size_t i = 0; i < factored_.size(); ++i) {
    const auto [n, m] = matrices_[i];
    Factored part{bucket.gradients[static_cast<size_t>(factored_[i])].reshape({n, m}),
                  first.narrow(0, p_at, n * rank_).reshape({n, rank_}),
                  q_.narrow(0, q_at, m * rank_).reshape({m, rank_})};
    replace_useless_columns(part.q, fresh.narrow(0, q_at, m * rank_).reshape({m, rank_}));
    kernels::matmul(part.matrix, part.q, {part.p, 0});
    p_at += n * rank_;
    q_at += m * rank_;
    parts.push_back(std::move(part));
  }
  const auto second = [this, parts, plain, first, &communicator, what] {
    gather_plain(plain, first, false);
    for (const Factored& part : parts) {
      orthogonalize(part.p);
      kernels::matmul(part.matrix.transpose(0, 1), part.p, {part.q, 0});
    }
    if (parts.empty()) return Work();
    return communicator.all_reduce(q_, ReduceOp::mean, what);
  };
  const auto last = [bucket, feedback, parts, plain, values, before] {
    for (const Factored& part : parts) {
      kernels::matmul(part.p, part.q.transpose(0, 1), {part.matrix, 0});
    }
    if (!before) return Work();
    // Plain gradients leave nothing out.
    kernels::scale_add(-1, values, 1, before);
    for (const Array& gradient : plain) {
      kernels::fill(Array(before.storage(), before.dtype(), gradient.shape(), gradient.strides(),
                          gradient.offset() - values.offset()),
                    0);
    }
    feedback->keep(bucket, before);
    return Work();
  };
  return communicator.all_reduce(first, ReduceOp::mean, what).then(second).then(last);
}

struct PowerSgdState {
  std::map<int, BucketPowerSgd> buckets;
  std::shared_ptr<ErrorFeedback> feedback = std::make_shared<ErrorFeedback>();
  int64_t steps = 0;  // that bucket 0 has left
};

}  // namespace

CommunicationHook power_sgd(PowerSgdOptions options) {
  LOCKSTEP_CHECK(options.rank >= 1, "power_sgd: rank ", options.rank, ", expected 1 or more");
  auto state = std::make_shared<PowerSgdState>();
  return [options, state](const GradientBucket& bucket) {
    if (bucket.index == 0) ++state->steps;
    if (state->steps <= options.start_after) return mean_of_bucket(bucket);
    auto found = state->buckets.find(bucket.index);
    // Buckets are packed again after the first step, and when parameters thaw.
    if (found != state->buckets.end() && !found->second.fits(bucket)) {
      state->buckets.erase(found);
      found = state->buckets.end();
    }
    if (found == state->buckets.end()) {
      found = state->buckets.try_emplace(bucket.index, bucket, options).first;
    }
    return found->second.reduce(bucket, options, state->feedback);
  };
}

}  // namespace lockstep::nn
