#include "lockstep/autograd/ops/einsum.h"

#include <algorithm>
#include <optional>
#include <string>

#include "lockstep/autograd/ops/check.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/linear_algebra.h"
#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/autograd/ops/shape.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep {
namespace {

// A letter (capitals first), or a dimension of the ellipsis: kEllipsis is its last, the one before
// it kEllipsis - 1, …
using Label = int;
constexpr Label kEllipsis = -1;

using Labels = std::vector<Label>;

bool has(const Labels& labels, Label label) {
  return std::find(labels.begin(), labels.end(), label) != labels.end();
}

// An operand, or a product of some: a label for each dimension, none twice.
struct Factor {
  Tensor tensor;
  Labels labels;

  int dim_of(Label label) const {
    return static_cast<int>(std::find(labels.begin(), labels.end(), label) - labels.begin());
  }
  int64_t size_of(Label label) const { return tensor.dim(dim_of(label)); }
};

// Letters in order, with the place of "..." among them.
struct Term {
  Labels letters;
  std::optional<size_t> ellipsis;
};

Term parse_term(std::string_view equation, std::string_view text) {
  Term term;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c >= 'A' && c <= 'Z') {
      term.letters.push_back(c - 'A');
    } else if (c >= 'a' && c <= 'z') {
      term.letters.push_back(c - 'a' + 26);
    } else {
      LOCKSTEP_CHECK(text.substr(i, 3) == "..." && !term.ellipsis, "einsum: \"", equation,
                     "\", expected letters and at most one \"...\" in \"", text, "\"");
      term.ellipsis = term.letters.size();
      i += 2;
    }
  }
  return term;
}

struct Equation {
  std::vector<Term> inputs;
  std::optional<Term> output;
};

Equation parse(std::string_view equation) {
  std::string text(equation);
  std::erase(text, ' ');
  const size_t arrow = text.find("->");
  const std::string_view left = std::string_view(text).substr(0, arrow);
  Equation result;
  for (size_t start = 0;;) {
    const size_t comma = left.find(',', start);
    result.inputs.push_back(parse_term(equation, left.substr(start, comma - start)));
    if (comma == std::string_view::npos) break;
    start = comma + 1;
  }
  if (arrow != std::string::npos) {
    result.output = parse_term(equation, std::string_view(text).substr(arrow + 2));
  }
  return result;
}

// The labels of a tensor whose ellipsis stands for `wide` dimensions.
Labels labels_of(const Term& term, int wide) {
  Labels labels = term.letters;
  if (!term.ellipsis) return labels;
  Labels dims;
  for (int i = wide; i > 0; --i) dims.push_back(kEllipsis - (i - 1));
  labels.insert(labels.begin() + static_cast<std::ptrdiff_t>(*term.ellipsis), dims.begin(),
                dims.end());
  return labels;
}

Array diagonal_window(const Array& x, int keep, int drop) {
  Shape shape = x.shape(), strides = x.strides();
  strides[keep] += strides[drop];
  shape.erase(drop);
  strides.erase(drop);
  return Array(x.storage(), x.dtype(), shape, strides, x.offset());
}

Tensor diagonal(const Tensor& x, int keep, int drop);

// Zeros of `shape` with x on that diagonal.
Tensor on_diagonal(const Tensor& x, int keep, int drop, const Shape& shape) {
  Array value = Array::zeros(shape, x.dtype(), x.device());
  kernels::copy_into(x.value(), diagonal_window(value, keep, drop));
  return record({"on_diagonal"}, std::move(value), {&x},
                [keep, drop](const Tensor& dy, Gradients& out) {
                  out.add(0, [&] { return diagonal(dy, keep, drop); });
                });
}

// Where the places in two dimensions of one size are equal, as dimension `keep`.
Tensor diagonal(const Tensor& x, int keep, int drop) {
  return record({"diagonal"}, diagonal_window(x.value(), keep, drop), {&x},
                [keep, drop, shape = x.shape()](const Tensor& dy, Gradients& out) {
                  out.add(0, [&] { return on_diagonal(dy, keep, drop, shape); });
                });
}

Factor factor_of(std::string_view equation, const Tensor& operand, const Term& term) {
  internal::check_given("einsum", operand);
  const int wide = operand.rank() - static_cast<int>(term.letters.size());
  LOCKSTEP_CHECK(wide == 0 || (wide > 0 && term.ellipsis), "einsum: \"", equation,
                 "\" for an operand of shape ", operand.shape());
  Factor factor{operand, labels_of(term, wide)};
  for (size_t i = 0; i < factor.labels.size(); ++i) {
    for (size_t j = factor.labels.size() - 1; j > i; --j) {
      if (factor.labels[j] != factor.labels[i]) continue;
      const int keep = static_cast<int>(i), drop = static_cast<int>(j);
      LOCKSTEP_CHECK(factor.tensor.dim(keep) == factor.tensor.dim(drop), "einsum: \"", equation,
                     "\" repeats a label over unequal sizes of shape ", operand.shape());
      factor.tensor = diagonal(factor.tensor, keep, drop);
      factor.labels.erase(factor.labels.begin() + drop);
    }
  }
  return factor;
}

Labels output_labels(std::string_view equation, const Equation& parsed,
                     const std::vector<Factor>& factors) {
  Labels seen;
  int wide = 0;
  for (size_t i = 0; i < factors.size(); ++i) {
    for (Label label : parsed.inputs[i].letters) seen.push_back(label);
    for (Label label : factors[i].labels) wide = std::max(wide, -label);
  }
  if (parsed.output) {
    const Labels labels = labels_of(*parsed.output, wide);
    for (Label label : parsed.output->letters) {
      LOCKSTEP_CHECK(has(seen, label) && std::count(labels.begin(), labels.end(), label) == 1,
                     "einsum: \"", equation,
                     "\", expected each output label once, and among the operands'");
    }
    return labels;
  }
  Term term{{}, 0};
  std::sort(seen.begin(), seen.end());
  for (Label label : seen) {
    if (std::count(seen.begin(), seen.end(), label) == 1) term.letters.push_back(label);
  }
  return labels_of(term, wide);
}

void check_sizes(std::string_view equation, const std::vector<Factor>& factors) {
  for (const Factor& a : factors) {
    for (const Factor& b : factors) {
      for (Label label : a.labels) {
        if (!has(b.labels, label)) continue;
        const int64_t left = a.size_of(label), right = b.size_of(label);
        LOCKSTEP_CHECK(left == right || left == 1 || right == 1, "einsum: \"", equation,
                       "\" gives a label the sizes ", left, " and ", right, " of shapes ",
                       a.tensor.shape(), " and ", b.tensor.shape());
      }
    }
    LOCKSTEP_CHECK(a.tensor.dtype() == factors[0].tensor.dtype(), "einsum: dtypes ",
                   factors[0].tensor.dtype(), " and ", a.tensor.dtype(), ", expected one");
  }
}

// Sums the dimensions that nothing else needs.
Factor summed(const Factor& factor, const Labels& needed) {
  std::vector<int> dims;
  Labels kept;
  for (size_t i = 0; i < factor.labels.size(); ++i) {
    if (has(needed, factor.labels[i])) {
      kept.push_back(factor.labels[i]);
    } else {
      dims.push_back(static_cast<int>(i));
    }
  }
  if (dims.empty()) return factor;
  return {to(sum(factor.tensor, dims), factor.tensor.dtype()), kept};
}

// The dimensions in the order of `labels`, with size 1 where the factor has none.
Tensor arranged(const Factor& factor, const Labels& labels) {
  std::vector<int> order;
  Shape shape;
  for (Label label : labels) {
    const bool own = has(factor.labels, label);
    if (own) order.push_back(factor.dim_of(label));
    shape.append(own ? factor.size_of(label) : 1);
  }
  return reshape(permute(factor.tensor, order), shape);
}

// As arranged(), but in as many dimensions as there are groups of labels, each of its full size.
Tensor grouped(const Factor& factor, const std::vector<Labels>& groups, const Factor& other) {
  Labels order;
  Shape full, result;
  for (const Labels& group : groups) {
    int64_t product = 1;
    for (Label label : group) {
      const int64_t size = factor.size_of(label);
      const int64_t wide = has(other.labels, label) && size == 1 ? other.size_of(label) : size;
      full.append(wide);
      order.push_back(label);
      product *= wide;
    }
    result.append(product);
  }
  return reshape(expand(arranged(factor, order), full), result);
}

Factor contracted(const Factor& a, const Factor& b, const Labels& needed) {
  Labels batch, rows, columns, inner;
  for (Label label : a.labels) {
    (!has(b.labels, label) ? rows : has(needed, label) ? batch : inner).push_back(label);
  }
  for (Label label : b.labels) {
    if (!has(a.labels, label)) columns.push_back(label);
  }
  Labels result = batch;
  result.insert(result.end(), rows.begin(), rows.end());
  result.insert(result.end(), columns.begin(), columns.end());
  if (inner.empty()) return {arranged(a, result) * arranged(b, result), result};
  const Tensor product =
      bmm(grouped(a, {batch, rows, inner}, b), grouped(b, {batch, inner, columns}, a));
  Shape shape;
  for (Label label : result) {
    const int64_t left = has(a.labels, label) ? a.size_of(label) : 1;
    shape.append(left != 1 || !has(b.labels, label) ? left : b.size_of(label));
  }
  return {reshape(product, shape), result};
}

}  // namespace

Tensor einsum(std::string_view equation, const std::vector<Tensor>& operands) {
  const Equation parsed = parse(equation);
  LOCKSTEP_CHECK(!operands.empty() && parsed.inputs.size() == operands.size(), "einsum: \"",
                 equation, "\" for ", operands.size(), " operands");
  std::vector<Factor> factors;
  for (size_t i = 0; i < operands.size(); ++i) {
    factors.push_back(factor_of(equation, operands[i], parsed.inputs[i]));
  }
  const Labels output = output_labels(equation, parsed, factors);
  check_sizes(equation, factors);
  const auto needed_beside = [&](size_t first, size_t last) {
    Labels needed = output;
    for (size_t i = 0; i < factors.size(); ++i) {
      if (i >= first && i <= last) continue;
      needed.insert(needed.end(), factors[i].labels.begin(), factors[i].labels.end());
    }
    return needed;
  };
  Factor result = summed(factors[0], needed_beside(0, 0));
  for (size_t i = 1; i < factors.size(); ++i) {
    Labels needed = needed_beside(i, i);
    const Factor next = summed(factors[i], needed);
    result = contracted(result, next, needed_beside(0, i));
  }
  return arranged(result, output);
}

}  // namespace lockstep
