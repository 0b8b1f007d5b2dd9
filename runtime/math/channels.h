#pragma once

#include <math.h>

#include "lockstep/runtime/host_device.h"

// What batch normalization makes of the statistics of one channel, for every device. T is the
// statistics' type; sums are rounded to it once.
namespace lockstep::math {

template <class T>
struct NormOfChannel {
  T inverse, scale, shift;

  LOCKSTEP_HD NormOfChannel(double mean, double variance, double weight, double bias,
                            double epsilon)
      : inverse(static_cast<T>(1 / ::sqrt(variance + epsilon))),
        scale(static_cast<T>(inverse * weight)),
        shift(static_cast<T>(bias - mean * scale)) {}
};

LOCKSTEP_HD double moved_towards(double running, double value, double momentum) {
  return (1 - momentum) * running + momentum * value;
}

// The part of the gradient that goes through the statistics, as x * slope + shift (Ioffe & Szegedy
// 2015).
template <class T>
struct SlopeOfChannel {
  T slope, shift;

  LOCKSTEP_HD SlopeOfChannel(double mean, double inverse, double scale, double sum,
                             double product_sum, double share)
      : slope(static_cast<T>(-scale * inverse * inverse * product_sum * share)),
        shift(static_cast<T>(-scale * sum * share - slope * mean)) {}
};

}  // namespace lockstep::math
