#include "lockstep/nn/init.h"

#include <cmath>

#include "lockstep/runtime/error.h"

namespace lockstep::nn::init {

using Fan = Initializer::Fan;
using Kind = Initializer::Kind;

namespace {

Initializer uniform_of_deviation(double deviation, Fan fan) {
  const double bound = std::sqrt(3.0) * deviation;
  return {.kind = Kind::uniform, .a = -bound, .b = bound, .fan = fan};
}

Fan fan_of(FanMode mode) { return mode == FanMode::fan_in ? Fan::in : Fan::out; }

}  // namespace

Initializer uniform(double low, double high) {
  LOCKSTEP_CHECK(low <= high, "uniform: bounds ", low, " and ", high);
  return {.kind = Kind::uniform, .a = low, .b = high};
}

Initializer normal(double mean, double deviation) {
  LOCKSTEP_CHECK(deviation >= 0, "normal: the deviation is ", deviation);
  return {.kind = Kind::normal, .a = mean, .b = deviation};
}

Initializer trunc_normal(double mean, double deviation, double low, double high) {
  LOCKSTEP_CHECK(deviation > 0 && low < high, "trunc_normal: deviation ", deviation, ", bounds ",
                 low, " and ", high, ", expected a positive one and low < high");
  return {.kind = Kind::truncated_normal, .a = mean, .b = deviation, .low = low, .high = high};
}

Initializer orthogonal(double gain) { return {.kind = Kind::orthogonal, .a = gain}; }

Fans calculate_fans(const Shape& shape) {
  LOCKSTEP_CHECK(shape.rank() >= 2, "init: the fans of a parameter of shape ", shape,
                 ", expected rank 2 at least");
  int64_t receptive = 1;
  for (int i = 2; i < shape.rank(); ++i) receptive *= shape[i];
  return {shape[1] * receptive, shape[0] * receptive};
}

double calculate_gain(Nonlinearity nonlinearity, double negative_slope) {
  switch (nonlinearity) {
    case Nonlinearity::linear:
    case Nonlinearity::sigmoid: return 1;
    case Nonlinearity::tanh: return 5.0 / 3;
    case Nonlinearity::relu: return std::sqrt(2.0);
    case Nonlinearity::leaky_relu: return std::sqrt(2 / (1 + negative_slope * negative_slope));
    case Nonlinearity::selu: return 0.75;
  }
  __builtin_unreachable();
}

Initializer xavier_uniform(double gain) { return uniform_of_deviation(gain, Fan::average); }

Initializer xavier_normal(double gain) {
  return {.kind = Kind::normal, .b = gain, .fan = Fan::average};
}

Initializer kaiming_uniform(const KaimingOptions& options) {
  return uniform_of_deviation(calculate_gain(options.nonlinearity, options.a),
                              fan_of(options.mode));
}

Initializer kaiming_normal(const KaimingOptions& options) {
  return {.kind = Kind::normal,
          .b = calculate_gain(options.nonlinearity, options.a),
          .fan = fan_of(options.mode)};
}

void apply(const Initializer& initializer, const Parameter& parameter, std::string_view name,
           uint64_t seed) {
  LOCKSTEP_CHECK(parameter && parameter.placed(), "init: the parameter ", name,
                 " has no memory yet: place its module, or set_initializer");
  const Array& value = parameter.own_value();
  LOCKSTEP_CHECK(value.contiguous(), "init: the parameter ", name, " is not contiguous");
  initializer.fill(value, parameter.shape(), parameter.own_begin(), name, seed);
  if (parameter.shard()) parameter.shard()->owner->values_changed();
}

}  // namespace lockstep::nn::init
