#include "lockstep/nn/parallel/communication_hook.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>

#include "lockstep/nn/parallel/error_feedback.h"
#include "lockstep/runtime/math/unary.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/ops/index.h"

namespace lockstep::nn {

Work mean_of_bucket(const GradientBucket& bucket, std::shared_ptr<const Mark> ready) {
  return bucket.communicator.all_reduce(
      bucket.values, ReduceOp::mean,
      {.what = "gradients", .bucket = bucket.index, .ready = std::move(ready)});
}

CommunicationHook compress_to(DType dtype) {
  LOCKSTEP_CHECK(dtype == DType::bf16 || dtype == DType::f16, "compress_to: ", dtype,
                 ", expected bf16 or f16");
  return [dtype](const GradientBucket& bucket) {
    const Array& values = bucket.values;
    const Array small = kernels::cast(values, dtype);
    return bucket.communicator
        .all_reduce(small, ReduceOp::mean, {.what = "gradients", .bucket = bucket.index})
        .then([small, values] {
          kernels::copy_into(small, values);
          return Work();
        });
  };
}

CommunicationHook timed(CommunicationHook hook,
                        std::function<void(int bucket, std::chrono::nanoseconds)> report) {
  return [hook = std::move(hook), report = std::move(report)](const GradientBucket& bucket) {
    const auto start = std::chrono::steady_clock::now();
    const Work work = hook ? hook(bucket) : mean_of_bucket(bucket);
    return work.then([report, start, index = bucket.index] {
      report(index, std::chrono::steady_clock::now() - start);
      return Work();
    });
  };
}

namespace {

Array magnitudes(const Array& values) {
  return kernels::unary("abs", {math::index_of<math::UnaryOps, math::Abs>}, values);
}

Work top_k_of(const GradientBucket& bucket, const TopKOptions& options, ErrorFeedback& feedback) {
  const Array& values = bucket.values;
  const int ranks = bucket.communicator.size();
  LOCKSTEP_CHECK(values.elements() <= std::numeric_limits<int32_t>::max(), "top_k: a bucket of ",
                 values.elements(), " values");
  const int64_t count = std::max<int64_t>(
      1,
      static_cast<int64_t>(std::ceil(options.fraction * static_cast<double>(values.elements()))));
  if (options.error_feedback) feedback.add_to(bucket);
  const Array places = kernels::sort("top_k", magnitudes(values), 0, count, true);
  const Array chosen = kernels::gather(values, 0, places);
  if (options.error_feedback) {
    const Array left = kernels::copy(values), minus = kernels::copy(chosen);
    kernels::scale_add(-1, minus, 0, minus);
    kernels::scatter_add(minus, 0, places, left);
    feedback.keep(bucket, left);
  }
  // Four bytes name any place in a bucket.
  const Array all_places = Array::empty({count * ranks}, DType::i32, values.device());
  const Array all_chosen = Array::empty({count * ranks}, values.dtype(), values.device());
  const CollectiveOptions what{.what = "gradients", .bucket = bucket.index};
  const Work first =
      bucket.communicator.all_gather(kernels::cast(places, DType::i32), all_places, what);
  const Work second = bucket.communicator.all_gather(chosen, all_chosen, what);
  return first.then([second] { return second; }).then([values, all_places, all_chosen, ranks] {
    kernels::fill(values, 0);
    kernels::scatter_add(all_chosen, 0, kernels::cast(all_places, DType::i64), values);
    kernels::scale_add(1.0 / ranks, values, 0, values);
    return Work();
  });
}

}  // namespace

CommunicationHook top_k(TopKOptions options) {
  LOCKSTEP_CHECK(options.fraction > 0 && options.fraction <= 1, "top_k: fraction ",
                 options.fraction, ", expected more than 0 and at most 1");
  auto feedback = std::make_shared<ErrorFeedback>();
  return [options, feedback](const GradientBucket& bucket) {
    return top_k_of(bucket, options, *feedback);
  };
}

}  // namespace lockstep::nn
