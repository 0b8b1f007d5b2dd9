#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "lockstep/nn/init.h"
#include "lockstep/runtime/error.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::nn {
namespace {

// FNV-1a: the same on every machine and in every build.
uint64_t hash_name(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (unsigned char c : name) hash = (hash ^ c) * 0x100000001b3u;
  return hash;
}

double fan_scale(Initializer::Fan fan, const Shape& shape) {
  if (fan == Initializer::Fan::none) return 1;
  const init::Fans fans = init::calculate_fans(shape);
  const double average = static_cast<double>(fans.in + fans.out) / 2;
  const double size = fan == Initializer::Fan::in    ? static_cast<double>(fans.in)
                      : fan == Initializer::Fan::out ? static_cast<double>(fans.out)
                                                     : average;
  return size > 0 ? 1 / std::sqrt(size) : 0;
}

// The inverse of erf: Winitzki's approximation (2008), made exact by Halley's method.
double inverse_erf(double y) {
  if (std::abs(y) >= 1) return std::copysign(INFINITY, y);
  constexpr double kA = 0.147;
  const double log_term = std::log1p(-y * y);
  const double half = 2 / (std::numbers::pi * kA) + log_term / 2;
  double x = std::copysign(std::sqrt(std::sqrt(half * half - log_term / kA) - half), y);
  for (int i = 0; i < 3; ++i) {
    const double slope = 2 * std::numbers::inv_sqrtpi * std::exp(-x * x);
    const double step = (std::erf(x) - y) / slope;
    x -= step / (1 + x * step);
  }
  return x;
}

double normal_cdf(double x) { return (1 + std::erf(x / std::numbers::sqrt2)) / 2; }

// By inversion, as torch.nn.init.trunc_normal_: a uniform number for each element.
void fill_truncated(const Initializer& init, double* values, int64_t count) {
  const double low = 2 * normal_cdf((init.low - init.a) / init.b) - 1;
  const double high = 2 * normal_cdf((init.high - init.a) / init.b) - 1;
  for (int64_t i = 0; i < count; ++i) {
    const double normal = std::numbers::sqrt2 * inverse_erf(low + (high - low) * values[i]);
    values[i] = std::clamp(init.a + init.b * normal, init.low, init.high);
  }
}

// The `count` vectors of `width` become orthonormal: modified Gram-Schmidt. Positive factors
// throughout, so that independent normal vectors give a uniformly distributed result.
void orthonormalize(double* vectors, int64_t count, int64_t width) {
  const auto dot = [width](const double* a, const double* b) {
    double sum = 0;
    for (int64_t i = 0; i < width; ++i) sum += a[i] * b[i];
    return sum;
  };
  for (int64_t k = 0; k < count; ++k) {
    double* pivot = vectors + k * width;
    const double inverse_norm = 1 / std::sqrt(dot(pivot, pivot));
    for (int64_t i = 0; i < width; ++i) pivot[i] *= inverse_norm;
    parallel_for(count - k - 1, std::max<int64_t>(1, 8192 / width),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t j = begin; j < end; ++j) {
                     double* vector = pivot + (j + 1) * width;
                     const double along = dot(pivot, vector);
                     for (int64_t i = 0; i < width; ++i) vector[i] -= along * pivot[i];
                   }
                 });
  }
}

// `normals` are those of the whole matrix, row-major.
std::vector<double> orthogonal(const std::vector<double>& normals, int64_t rows, int64_t columns,
                               double gain) {
  const bool wide = rows <= columns;  // then the rows are the vectors
  const auto place = [=](int64_t row, int64_t column) {
    return wide ? row * columns + column : column * rows + row;
  };
  std::vector<double> vectors(normals.size());
  const auto each = [&](const auto& act) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) act(r * columns + c, place(r, c));
    }
  };
  each([&](int64_t i, int64_t at) { vectors[at] = normals[i]; });
  orthonormalize(vectors.data(), std::min(rows, columns), std::max(rows, columns));
  std::vector<double> result(normals.size());
  each([&](int64_t i, int64_t at) { result[i] = gain * vectors[at]; });
  return result;
}

// The kinds that are made on the host, in double.
void fill_on_host(const Initializer& init, const Array& values, const Shape& shape, int64_t first,
                  RandomKey key) {
  const int64_t count = values.elements();
  const int64_t columns = shape.rank() > 1 && shape[0] > 0 ? shape.elements() / shape[0] : 1;
  const Array host = Array::empty({count}, DType::f64);
  double* numbers = host.data<double>();
  Kernels& cpu = kernels::of(host);
  switch (init.kind) {
    case Initializer::Kind::truncated_normal:
      cpu.uniform(host.view(), 0, 1, key, static_cast<uint64_t>(first));
      fill_truncated(init, numbers, count);
      break;
    case Initializer::Kind::orthogonal: {
      LOCKSTEP_CHECK(shape.rank() >= 2, "orthogonal: a parameter of shape ", shape,
                     ", expected rank 2 at least");
      const Array normals = Array::empty({shape.elements()}, DType::f64);
      cpu.normal(normals.view(), 0, 1, key, 0);
      const std::vector<double> whole =
          orthogonal(normals.to_vector<double>(), shape[0], columns, init.a);
      std::copy_n(whole.begin() + first, count, numbers);
      break;
    }
    default:
      LOCKSTEP_CHECK(shape.rank() == 2, "eye: a parameter of shape ", shape, ", expected a matrix");
      for (int64_t i = 0; i < count; ++i) {
        numbers[i] = (first + i) / columns == (first + i) % columns ? 1 : 0;
      }
  }
  kernels::copy_into(host.reshape(values.shape()), values);
}

}  // namespace

Initializer Initializer::with_zeros(int64_t first, int64_t count) const {
  Initializer result = *this;
  result.zero_begin = first;
  result.zero_end = first + count;
  return result;
}

void Initializer::fill(const Array& values, const Shape& shape, int64_t first,
                       std::string_view name, uint64_t seed) const {
  const int64_t last = first + values.elements();
  LOCKSTEP_CHECK(values.contiguous() && is_floating(values.dtype()), "init of ", name,
                 ": values of shape ", values.shape(), " ", values.dtype(),
                 ", expected a contiguous array of a floating dtype");
  LOCKSTEP_CHECK(0 <= first && last <= shape.elements(), "init of ", name, ": elements ", first,
                 " to ", last, " of a parameter of shape ", shape);
  values.storage()->bump_version();  // on each rank, also where its slice has none of them
  if (values.elements() == 0) return;
  const RandomKey key{.seed = seed ^ hash_name(name)};
  const double scale = fan_scale(fan, shape);
  Kernels& device = kernels::of(values);
  switch (kind) {
    case Kind::constant: device.fill(values.view(), a); break;
    case Kind::normal:
      device.normal(values.view(), a, b * scale, key, static_cast<uint64_t>(first));
      break;
    case Kind::uniform:
      device.uniform(values.view(), a * scale, b * scale, key, static_cast<uint64_t>(first));
      break;
    default: fill_on_host(*this, values, shape, first, key);
  }
  const int64_t begin = std::max(first, zero_begin), end = std::min(last, zero_end);
  if (begin < end) {
    const Array flat = values.try_view({values.elements()});
    device.fill(flat.narrow(0, begin - first, end - begin).view(), 0);
  }
}

}  // namespace lockstep::nn
