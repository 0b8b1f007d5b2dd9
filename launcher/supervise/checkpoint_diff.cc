#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <ostream>
#include <vector>

#include "lockstep/launcher/supervise/checkpoint_actions.h"
#include "lockstep/runtime/shape.h"

namespace lockstep::supervise {
namespace {

constexpr int64_t kChunkElements = 1 << 20;

// How two tensors of one dtype and shape compare.
struct Difference {
  int64_t elements = 0;  // whose bits differ
  int64_t first = -1;
  double largest = 0;  // infinity where one is not a number and the other is
};

double as_double(BFloat16 value) { return static_cast<float>(value); }
double as_double(Float16 value) { return static_cast<float>(value); }
template <class T>
double as_double(T value) {
  return static_cast<double>(value);
}

double distance(double a, double b) {
  if (std::isnan(a) && std::isnan(b)) return 0;
  const double apart = a == b ? 0 : std::fabs(a - b);
  return std::isnan(apart) ? std::numeric_limits<double>::infinity() : apart;
}

template <class T>
void compare(const std::byte* a, const std::byte* b, int64_t first, int64_t count,
             Difference& difference) {
  for (int64_t i = 0; i < count; ++i, a += sizeof(T), b += sizeof(T)) {
    if (std::memcmp(a, b, sizeof(T)) == 0) continue;
    T left;
    T right;
    std::memcpy(&left, a, sizeof(T));
    std::memcpy(&right, b, sizeof(T));
    if (difference.elements++ == 0) difference.first = first + i;
    difference.largest = std::max(difference.largest, distance(as_double(left), as_double(right)));
  }
}

absl::StatusOr<Difference> compare(files::Checkpoint& a, files::Checkpoint& b,
                                   const files::TensorRecord& tensor) {
  Difference difference;
  std::vector<std::byte> left(static_cast<size_t>(kChunkElements) * size_of(tensor.dtype));
  std::vector<std::byte> right(left.size());
  for (int64_t begin = 0; begin < tensor.elements(); begin += kChunkElements) {
    const int64_t end = std::min(tensor.elements(), begin + kChunkElements);
    absl::Status status = a.read(tensor.name, begin, end, left.data());
    if (status.ok()) status = b.read(tensor.name, begin, end, right.data());
    if (!status.ok()) return status;
    dispatch(tensor.dtype, [&](auto type) {
      using T = typename decltype(type)::type;
      compare<T>(left.data(), right.data(), begin, end - begin, difference);
    });
  }
  return difference;
}

std::string describe(const files::TensorSpec& tensor) {
  std::string text(name_of(tensor.dtype));
  text += " [";
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(tensor.shape[i]);
  }
  return text + "]";
}

}  // namespace

absl::StatusOr<bool> diff_checkpoints(files::Checkpoint& a, files::Checkpoint& b,
                                      std::ostream& out) {
  int64_t differing = 0;
  double largest = 0;
  std::string where;
  for (const files::TensorRecord& tensor : a.manifest().tensors) {
    const files::TensorRecord* other = b.manifest().find(tensor.name);
    if (other == nullptr || other->dtype != tensor.dtype || other->shape != tensor.shape) {
      ++differing;
      out << tensor.name << ": " << describe(tensor) << ", in the other "
          << (other == nullptr ? "missing" : describe(*other)) << "\n";
      continue;
    }
    const auto difference = compare(a, b, tensor);
    if (!difference.ok()) return difference.status();
    if (difference->elements == 0) continue;
    ++differing;
    out << tensor.name << ": largest difference " << difference->largest << ", "
        << difference->elements << " of " << tensor.elements() << " elements, the first is "
        << difference->first << "\n";
    if (where.empty() || difference->largest > largest) {
      largest = difference->largest;
      where = tensor.name;
    }
  }
  for (const files::TensorRecord& tensor : b.manifest().tensors) {
    if (a.manifest().find(tensor.name) != nullptr) continue;
    ++differing;
    out << tensor.name << ": missing, in the other " << describe(tensor) << "\n";
  }
  if (differing == 0) {
    out << "identical: " << a.manifest().tensors.size() << " tensors\n";
  } else {
    out << differing << " tensors differ, largest difference " << largest
        << (where.empty() ? "" : " in " + where) << "\n";
  }
  return differing == 0;
}

}  // namespace lockstep::supervise
