#include "lockstep/nn/layers/batch_norm.h"

#include "lockstep/nn/layers/describe.h"
#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/capture.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::nn {

using internal::text;

template <int kSpatial>
BatchNorm<kSpatial>::BatchNorm(int64_t num_features, Options options)
    : num_features(num_features), options(options) {
  LOCKSTEP_CHECK(num_features > 0, type_name(), ": ", num_features, " features");
  if (options.affine) {
    weight = Parameter({num_features}, Initializer::ones());
    bias = Parameter({num_features}, Initializer::zeros());
  }
  if (options.track_running_stats) {
    running_mean = Buffer({num_features}, 0);
    running_var = Buffer({num_features}, 1);
    num_batches_tracked = Buffer::on_host({}, 0, DType::i64);
  }
}

template <int kSpatial>
Tensor BatchNorm<kSpatial>::forward(const Tensor& x, Activation activation,
                                    const Tensor& residual) {
  const bool shaped = x.rank() == kSpatial + 2 || (kSpatial == 1 && x.rank() == 2);
  LOCKSTEP_CHECK(shaped && x.dim(1) == num_features, type_name(), ": input of shape ", x.shape(),
                 ", expected rank ", kSpatial + 2, kSpatial == 1 ? " or 2" : "", " with ",
                 num_features, " features");
  const bool tracks = options.track_running_stats;
  // A recomputed forward pass has updated them before.
  const bool updates = this->training() && tracks && !context().recomputing;
  double momentum = options.momentum.value_or(0);
  if (updates) {
    const auto count = [counter = num_batches_tracked.array()] {
      kernels::fill(counter, counter.item() + 1);
    };
    at_each_replay(count);
    if (!options.momentum) {
      if (context().capture != nullptr) throw NotCapturable("a momentum that changes by batch");
      momentum = 1 / num_batches_tracked.array().item();
    }
  }
  const bool reads = tracks && (updates || !this->training());
  return batch_norm(x, reads ? running_mean.array() : Array(),
                    reads ? running_var.array() : Array(), weight.tensor_or_empty(),
                    bias.tensor_or_empty(),
                    {.training = this->training() || !tracks,
                     .momentum = momentum,
                     .epsilon = options.eps,
                     .group = this->training() ? statistics_group : nullptr,
                     .activation = activation,
                     .residual = residual});
}

template <int kSpatial>
void BatchNorm<kSpatial>::visit(Visitor& v) {
  v("weight", weight);
  v("bias", bias);
  v("running_mean", running_mean);
  v("running_var", running_var);
  v("num_batches_tracked", num_batches_tracked);
}

template <int kSpatial>
std::string BatchNorm<kSpatial>::type_name() const {
  return statistics_group ? "SyncBatchNorm" : concat({"BatchNorm", kSpatial, "d"});
}

template <int kSpatial>
std::string BatchNorm<kSpatial>::describe() const {
  return concat({num_features, ", eps=", options.eps, ", momentum=", text(options.momentum),
                 ", affine=", text(options.affine),
                 ", track_running_stats=", text(options.track_running_stats)});
}

template struct BatchNorm<1>;
template struct BatchNorm<2>;
template struct BatchNorm<3>;

}  // namespace lockstep::nn
