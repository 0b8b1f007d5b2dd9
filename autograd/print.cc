#include "lockstep/autograd/print.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <ostream>
#include <type_traits>

namespace lockstep {
namespace {

constexpr int64_t kThreshold = 1000;  // elements; above, only the edges are shown
constexpr int64_t kEdge = 3;
constexpr int kLineWidth = 80;
constexpr int64_t kLeftOut = -1;

// The indices of a dimension that are shown, with kLeftOut between the edges.
std::vector<int64_t> shown(int64_t size, bool summarize) {
  std::vector<int64_t> indices;
  for (int64_t i = 0; i < size; ++i) {
    if (summarize && size > 2 * kEdge && i == kEdge) {
      indices.push_back(kLeftOut);
      i = size - kEdge;
    }
    indices.push_back(i);
  }
  return indices;
}

template <class... Arguments>
std::string formatted(const char* format, Arguments... arguments) {
  char text[400];  // the largest double has 309 digits
  std::snprintf(text, sizeof(text), format, arguments...);
  return text;
}

// T: what a cell is printed from, double or int64_t.
template <class T>
class Printer {
 public:
  explicit Printer(const Array& x)
      : boolean_(x.dtype() == DType::boolean), summarize_(x.elements() > kThreshold) {
    std::vector<T> values;
    collect(x, values);
    if constexpr (std::is_floating_point_v<T>) choose_form(values);
    for (T value : values) width_ = std::max(width_, cell(value).size());
  }

  std::string text(const Array& x, int indent) const {
    if (x.rank() == 0) return padded(x.to_vector<T>()[0]);
    if (x.rank() == 1) return row(x, indent);
    std::string result = "[";
    const std::string separator =
        "," + std::string(static_cast<size_t>(x.rank()) - 1, '\n') + spaces(indent + 1);
    for (int64_t i : shown(x.dim(0), summarize_)) {
      if (i != 0) result += separator;
      result += i == kLeftOut ? "..." : text(x.select(0, i), indent + 1);
    }
    return result + "]";
  }

 private:
  static std::string spaces(int count) { return std::string(static_cast<size_t>(count), ' '); }

  void collect(const Array& x, std::vector<T>& values) const {
    if (x.rank() <= 1) {
      const std::vector<T> all = x.to_vector<T>();
      if (x.rank() == 0) values.push_back(all[0]);
      if (x.rank() == 0) return;
      for (int64_t i : shown(x.dim(0), summarize_)) {
        if (i != kLeftOut) values.push_back(all[static_cast<size_t>(i)]);
      }
      return;
    }
    for (int64_t i : shown(x.dim(0), summarize_)) {
      if (i != kLeftOut) collect(x.select(0, i), values);
    }
  }

  void choose_form(std::vector<T>& values) {
    double smallest = std::numeric_limits<double>::infinity(), largest = 0;
    std::erase_if(values, [](T value) { return value == 0 || !std::isfinite(value); });
    for (T value : values) {
      whole_ &= value == std::ceil(value);
      smallest = std::min(smallest, std::abs(static_cast<double>(value)));
      largest = std::max(largest, std::abs(static_cast<double>(value)));
    }
    scientific_ = largest / smallest > 1000 || largest > 1e8 || smallest < 1e-4;
  }

  std::string cell(T value) const {
    if constexpr (std::is_integral_v<T>) {
      return boolean_ ? (value != 0 ? "True" : "False") : std::to_string(value);
    } else {
      if (std::isnan(value)) return "nan";
      if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
      if (scientific_) return formatted("%.4e", value);
      return whole_ ? formatted("%.0f.", value) : formatted("%.4f", value);
    }
  }

  std::string padded(T value) const {
    const std::string text = cell(value);
    return std::string(width_ > text.size() ? width_ - text.size() : 0, ' ') + text;
  }

  std::string row(const Array& x, int indent) const {
    const std::vector<T> all = x.to_vector<T>();
    const int each = static_cast<int>(width_) + 2;
    const int on_a_line = std::max(1, (kLineWidth - indent) / each);
    std::string result = "[";
    int count = 0;
    for (int64_t i : shown(x.dim(0), summarize_)) {
      if (count > 0) result += count % on_a_line == 0 ? ",\n" + spaces(indent + 1) : ", ";
      result += i == kLeftOut ? " ..." : padded(all[static_cast<size_t>(i)]);
      ++count;
    }
    return result + "]";
  }

  bool boolean_;
  bool summarize_;
  bool whole_ = true;
  bool scientific_ = false;
  size_t width_ = 1;
};

std::string tuple_of(const Shape& shape) {
  std::string result = "(";
  for (int i = 0; i < shape.rank(); ++i) {
    result += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  }
  return result + (shape.rank() == 1 ? ",)" : ")");
}

std::vector<std::string> suffixes_of(const Tensor& x) {
  std::vector<std::string> suffixes;
  if (x.device() != Device{}) suffixes.push_back("device='" + x.device().to_string() + "'");
  const bool none = x.elements() == 0;
  if (none && x.rank() != 1) suffixes.push_back("size=" + tuple_of(x.shape()));
  const bool plain = x.dtype() == DType::f32 ||
                     (!none && (x.dtype() == DType::i64 || x.dtype() == DType::boolean));
  if (!plain) suffixes.push_back("dtype=" + std::string(name_of(x.dtype())));
  if (x.requires_grad()) {
    suffixes.push_back(x.is_leaf() ? "requires_grad=True"
                                   : "grad_fn=<" + std::string(x.node()->name()) + ">");
  }
  return suffixes;
}

}  // namespace

std::string to_string(const Tensor& x) {
  if (!x) return "tensor()";
  std::string result = "tensor(";
  const int indent = static_cast<int>(result.size());
  const Array& value = x.value();
  if (value.elements() == 0) {
    result += "[]";
  } else {
    result += is_floating(x.dtype()) ? Printer<double>(value).text(value, indent)
                                     : Printer<int64_t>(value).text(value, indent);
  }
  size_t line = result.size() - (result.rfind('\n') + 1) + 2;
  for (const std::string& suffix : suffixes_of(x)) {
    if (line + suffix.size() + 2 > static_cast<size_t>(kLineWidth)) {
      result += ",\n" + std::string(static_cast<size_t>(indent), ' ') + suffix;
      line = static_cast<size_t>(indent) + suffix.size();
    } else {
      result += ", " + suffix;
      line += suffix.size() + 2;
    }
  }
  return result + ")";
}

std::ostream& operator<<(std::ostream& stream, const Tensor& x) { return stream << to_string(x); }

std::ostream& operator<<(std::ostream& stream, DType dtype) { return stream << name_of(dtype); }

std::ostream& operator<<(std::ostream& stream, const Shape& shape) {
  return stream << shape.to_string();
}

}  // namespace lockstep
