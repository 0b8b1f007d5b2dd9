#include "lockstep/runtime/cuda/kernels/channels.h"
#include "lockstep/runtime/cuda/kernels/channels_access.h"
#include "lockstep/runtime/cuda/kernels/elements.h"
#include "lockstep/runtime/cuda/kernels/operand.h"
#include "lockstep/runtime/math/channels.h"

// What is computed of the statistics of each channel, by a thread.
namespace lockstep::cuda {
namespace {

// Of any floating dtype.
LOCKSTEP_HD double value_of(const Operand& from, uint32_t at) {
  return from.dtype == DType::f64 ? from.get<double>(at) : from.get<float>(at);
}

LOCKSTEP_HD double value_or(double otherwise, const Operand& from, uint32_t at) {
  return from.data == nullptr ? otherwise : value_of(from, at);
}

LOCKSTEP_HD void set_value(const Operand& to, uint32_t at, double value) {
  if (to.dtype == DType::f64) {
    to.put<double>(at, value);
  } else {
    to.put<float>(at, static_cast<float>(value));
  }
}

template <class C>
struct NormBody {
  const C* mean;
  const C* variance;
  Operand weight, bias, running_mean, running_variance;
  C* inverse;
  C* scale;
  C* shift;
  double epsilon, momentum, unbiased;

  LOCKSTEP_HD void one(uint32_t i) const {
    const math::NormOfChannel<C> norm(mean[i], variance[i], value_or(1, weight, i),
                                      value_or(0, bias, i), epsilon);
    inverse[i] = norm.inverse;
    scale[i] = norm.scale;
    shift[i] = norm.shift;
    move(running_mean, i, mean[i]);
    move(running_variance, i, variance[i] * unbiased);
  }

 private:
  LOCKSTEP_HD void move(const Operand& running, uint32_t i, double value) const {
    if (running.data == nullptr) return;
    set_value(running, i, math::moved_towards(value_of(running, i), value, momentum));
  }
};

template <class C>
struct NormBackwardBody {
  const C* mean;
  const C* inverse;
  const C* scale;
  const C* sum;
  const C* product_sum;
  double share;
  C* slope;
  C* shift;
  Operand dweight;

  LOCKSTEP_HD void one(uint32_t i) const {
    const math::SlopeOfChannel<C> through(mean[i], inverse[i], scale[i], sum[i], product_sum[i],
                                          share);
    slope[i] = through.slope;
    shift[i] = through.shift;
    if (dweight.data != nullptr) set_value(dweight, i, double{product_sum[i]} * inverse[i]);
  }
};

}  // namespace

void channel_norm(const View& mean, const View& variance, const ChannelNorm& norm, Queue& queue) {
  with_statistics_type(mean.dtype, [&]<class C>(C) {
    launch_elements(
        NormBody<C>{mean.as<C>(), variance.as<C>(), Operand(norm.weight), Operand(norm.bias),
                    Operand(norm.running_mean), Operand(norm.running_variance),
                    norm.inverse.as<C>(), norm.scale.as<C>(), norm.shift.as<C>(), norm.epsilon,
                    norm.momentum, norm.unbiased},
        mean.elements(), queue);
  });
}

void channel_norm_backward(const View& mean, const View& inverse, const View& scale,
                           const View& sum, const View& product_sum, double share,
                           const View& slope, const View& shift, const View& dweight,
                           Queue& queue) {
  with_statistics_type(mean.dtype, [&]<class C>(C) {
    launch_elements(NormBackwardBody<C>{mean.as<C>(), inverse.as<C>(), scale.as<C>(), sum.as<C>(),
                                        product_sum.as<C>(), share, slope.as<C>(), shift.as<C>(),
                                        Operand(dweight)},
                    mean.elements(), queue);
  });
}

}  // namespace lockstep::cuda
