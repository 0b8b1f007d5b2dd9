#pragma once

#include <cstdint>
#include <string_view>

#include "lockstep/nn/parameter.h"

// torch.nn.init's formulas, as initialisers: give one to a module when it is made, or apply it to a
// parameter that has been placed. Each element depends on the seed, the parameter's name and its
// place only.
namespace lockstep::nn::init {

inline Initializer zeros() { return Initializer::zeros(); }
inline Initializer ones() { return Initializer::ones(); }
inline Initializer constant(double value) { return {.a = value}; }
// Ones on the diagonal of a matrix.
inline Initializer eye() { return {.kind = Initializer::Kind::eye}; }
// U[low, high)
Initializer uniform(double low = 0, double high = 1);
Initializer normal(double mean = 0, double deviation = 1);
// The normal distribution cut to [low, high], by inversion.
Initializer trunc_normal(double mean = 0, double deviation = 1, double low = -2, double high = 2);
// The first dimension by all others: rows or columns, whichever are fewer, are orthonormal, times
// `gain` (Saxe, McClelland & Ganguli 2014). The whole matrix is made wherever a part is wanted.
Initializer orthogonal(double gain = 1);

// Of a weight [out, in, receptive field…].
struct Fans {
  int64_t in = 0, out = 0;
};
// Throws Error below rank 2.
Fans calculate_fans(const Shape& shape);

enum class Nonlinearity { linear, sigmoid, tanh, relu, leaky_relu, selu };
// The factor that keeps the variance; `negative_slope` is leaky_relu's.
double calculate_gain(Nonlinearity nonlinearity, double negative_slope = 0.01);

// Glorot & Bengio 2010: the deviation is gain * sqrt(2 / (fan_in + fan_out)).
Initializer xavier_uniform(double gain = 1);
Initializer xavier_normal(double gain = 1);

enum class FanMode { fan_in, fan_out };
struct KaimingOptions {
  double a = 0;  // leaky_relu's slope
  FanMode mode = FanMode::fan_in;
  Nonlinearity nonlinearity = Nonlinearity::leaky_relu;
};
// He et al. 2015: the deviation is gain / sqrt(fan).
Initializer kaiming_uniform(const KaimingOptions& options = {});
Initializer kaiming_normal(const KaimingOptions& options = {});

// New values for a parameter that has been placed. `name` sets it apart from others that are filled
// with the same seed.
void apply(const Initializer& initializer, const Parameter& parameter, std::string_view name = "",
           uint64_t seed = 0);

}  // namespace lockstep::nn::init
