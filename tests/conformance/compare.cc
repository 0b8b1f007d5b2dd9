#include "conformance/compare.h"

#include <cmath>
#include <cstdio>

#include "lockstep/runtime/kernels.h"

namespace lockstep::conformance {
namespace {

bool matches(double found, double expected, const Case& recorded) {
  if (std::isnan(expected)) return std::isnan(found);
  if (std::isinf(expected)) return found == expected;
  const double tolerance =
      recorded.absolute_tolerance + recorded.relative_tolerance * std::abs(expected);
  return std::abs(found - expected) <= tolerance;
}

std::string text(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof(buffer), "%.17g", value);
  return buffer;
}

// "[1, 2]" of the i-th element in row-major order.
std::string place(const Shape& shape, int64_t i) {
  Shape index = Shape::filled(shape.rank(), 0);
  for (int d = shape.rank() - 1; d >= 0; --d) {
    index[d] = i % shape[d];
    i /= shape[d];
  }
  return index.to_string();
}

std::string tolerance(const Case& recorded) {
  return "tolerance " + text(recorded.absolute_tolerance) + " + " +
         text(recorded.relative_tolerance) + " |expected|";
}

}  // namespace

void compare(const Case& recorded, const std::string& tensor, const Array& found,
             const Array& expected, Failures& failures) {
  const auto differs = [&](const std::string& how) {
    failures.push_back(recorded.file + ": " + tensor + how);
  };
  const Array values = found ? found : Array::zeros(expected.shape(), expected.dtype());
  if (values.dtype() != expected.dtype()) {
    return differs(concat({": dtype ", values.dtype(), ", expected ", expected.dtype()}));
  }
  if (!(values.shape() == expected.shape())) {
    return differs(concat({": shape ", values.shape(), ", expected ", expected.shape()}));
  }
  if (is_floating(values.dtype())) {
    const auto a = values.to_vector<double>(), e = expected.to_vector<double>();
    for (size_t i = 0; i < e.size(); ++i) {
      if (matches(a[i], e[i], recorded)) continue;
      return differs(place(expected.shape(), static_cast<int64_t>(i)) + ": got " + text(a[i]) +
                     ", expected " + text(e[i]) + ", " + tolerance(recorded));
    }
  } else {
    const auto a = values.to_vector<int64_t>(), e = expected.to_vector<int64_t>();
    for (size_t i = 0; i < e.size(); ++i) {
      if (a[i] == e[i]) continue;
      return differs(place(expected.shape(), static_cast<int64_t>(i)) + ": got " +
                     std::to_string(a[i]) + ", expected " + std::to_string(e[i]) + ", exactly");
    }
  }
}

}  // namespace lockstep::conformance
