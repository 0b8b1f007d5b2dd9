#include <algorithm>
#include <array>

#include "lockstep/autograd/ops.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/math/probe.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep {
namespace {

// A functor's derivative as a recorded formula: its grad() with Tensor for the operand type.
struct UnaryEntry {
  const char* name;
  math::Reads reads;
  Tensor (*derivative)(const Elementwise& op, const Tensor& x, const Tensor& y);
};

struct BinaryEntry {
  const char* name;
  math::Reads reads[2];
  Tensor (*derivative)(int operand, const Tensor& a, const Tensor& b, const Tensor& out);
};

template <class F>
Tensor unary_derivative(const Elementwise& op, const Tensor& x, const Tensor& y) {
  return math::make_functor<F>(op.attributes).grad(x, y)[0];
}

template <class F>
Tensor binary_derivative(int operand, const Tensor& a, const Tensor& b, const Tensor& out) {
  return F{}.grad(a, b, out)[operand];
}

template <class... F>
constexpr std::array<UnaryEntry, sizeof...(F)> unary_entries(math::TypeList<F...>) {
  return {UnaryEntry{F::name, math::reads_of<F>(), &unary_derivative<F>}...};
}

template <class... F>
constexpr std::array<BinaryEntry, sizeof...(F)> binary_entries(math::TypeList<F...>) {
  return {
      BinaryEntry{F::name, {math::reads_of<F>(0), math::reads_of<F>(1)}, &binary_derivative<F>}...};
}

template <class... F>
constexpr std::array<const char*, sizeof...(F)> names(math::TypeList<F...>) {
  return {F::name...};
}

constexpr auto kUnary = unary_entries(math::UnaryOps{});
constexpr auto kBinary = binary_entries(math::BinaryOps{});
constexpr auto kCompare = names(math::CompareOps{});

// A weak scalar takes the dtype and device of what it meets.
Array meet(const Tensor& x, const Tensor& other) {
  if (!x.is_weak_scalar() || other.is_weak_scalar()) return x.value();
  return Array::full({}, x.item(), other.dtype(), other.device());
}

struct Operands {
  Tensor a, b, out;
};

// The gradient of one operand of a binary op, which has `shape`, from that of the result.
Tensor binary_gradient(int index, int operand, const Operands& x, const Shape& shape,
                       const Tensor& dy, Into into) {
  const math::Reads& reads = kBinary[index].reads[operand];
  if (reads.is_one) {
    if (recording() || dy.shape() == shape) return sum_to(dy, shape);
    return kernels::sum_to(dy.value(), shape, into);
  }
  if (recording()) {
    return sum_to(dy * kBinary[index].derivative(operand, x.a, x.b, x.out), shape);
  }
  const bool same = dy.shape() == shape;
  const Array full = kernels::binary_backward({index}, operand, x.a.value(), x.b.value(),
                                              x.out.value(), dy.value(), same ? into : Into());
  return same ? full : kernels::sum_to(full, shape, into);
}

// What was not saved is not read by the partial that is wanted. A formula computes all partials, so
// it gets a stand-in; a kernel gets nothing.
Tensor stand_in() { return recording() ? Tensor(1.0) : Tensor(); }

Tensor read(const Saved& saved) { return saved ? *saved : stand_in(); }

}  // namespace

namespace internal {

Tensor unary(int index, const Tensor& x, std::initializer_list<double> attributes) {
  const UnaryEntry& entry = kUnary[index];
  Elementwise op{index};
  std::copy(attributes.begin(), attributes.end(), op.attributes);
  const Array y = kernels::unary(entry.name, op, x.value());
  if (!records({&x})) return constant({entry.name}, y, {&x});
  return record({entry.name}, y, {&x},
                [op, x = Saved(x, entry.reads.a), y = Saved(y, entry.reads.out)](const Tensor& dy,
                                                                                 Gradients& out) {
                  const UnaryEntry& entry = kUnary[op.index];
                  if (entry.reads.is_zero) return;
                  if (entry.reads.is_one) return out.add(0, dy);
                  out.add(0, [&](Into into) -> Tensor {
                    if (recording()) {
                      const Tensor own = y ? out.own(y) : stand_in();
                      return dy * entry.derivative(op, read(x), own);
                    }
                    return kernels::unary_backward(op, x.value_or_empty(), y.value_or_empty(),
                                                   dy.value(), into);
                  });
                });
}

Tensor binary(int index, const Tensor& a, const Tensor& b) {
  const BinaryEntry& entry = kBinary[index];
  const Array left = meet(a, b), right = meet(b, a);
  const Array y = kernels::binary(entry.name, {index}, left, right);
  if (a.is_weak_scalar() && b.is_weak_scalar()) return Tensor(y.item());
  if (!records({&a, &b})) return constant({entry.name}, y, {&a, &b});
  const bool need[2] = {a.requires_grad(), b.requires_grad()};
  const auto reads = [&](bool math::Reads::*what) {
    return (need[0] && entry.reads[0].*what) || (need[1] && entry.reads[1].*what);
  };
  const Tensor left_kept = need[0] ? a : Tensor(left), right_kept = need[1] ? b : Tensor(right);
  return record(
      {entry.name}, y, {&a, &b},
      [index, left = Saved(left_kept, reads(&math::Reads::a)),
       right = Saved(right_kept, reads(&math::Reads::b)), y = Saved(y, reads(&math::Reads::out)),
       shapes = std::array{left.shape(), right.shape()}](const Tensor& dy, Gradients& out) {
        for (int operand = 0; operand < 2; ++operand) {
          if (kBinary[index].reads[operand].is_zero) continue;
          out.add(operand, [&](Into into) {
            const Operands operands{read(left), read(right), y ? out.own(y) : stand_in()};
            return binary_gradient(index, operand, operands, shapes[operand], dy, into);
          });
        }
      });
}

Tensor compare(int index, const Tensor& a, const Tensor& b) {
  return constant({kCompare[index]},
                  kernels::compare(kCompare[index], {index}, meet(a, b), meet(b, a)), {&a, &b});
}

}  // namespace internal

Tensor operator&(const Tensor& a, const Tensor& b) {
  LOCKSTEP_CHECK(a.dtype() == DType::boolean && b.dtype() == DType::boolean, "&: dtypes ",
                 a.dtype(), " and ", b.dtype(), ", expected bool");
  const Array no = Array::full({}, 0, DType::boolean, a.device());
  return constant({"and"}, kernels::where(a.value(), b.value(), no), {&a, &b});
}

Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b) {
  const Array left = meet(a, b), right = meet(b, a);
  return record({"where"}, kernels::where(condition.value(), left, right), {&condition, &a, &b},
                [condition = Saved(condition), a = left.shape(), b = right.shape()](
                    const Tensor& dy, Gradients& out) {
                  out.add(1, [&] { return sum_to(where(*condition, dy, Tensor(0.0)), a); });
                  out.add(2, [&] { return sum_to(where(*condition, Tensor(0.0), dy), b); });
                });
}

Tensor to(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  Array value = kernels::cast(x.value(), dtype);
  if (!is_floating(dtype)) return constant({"to", name_of(dtype)}, value, {&x});
  return record({"to", name_of(dtype)}, value, {&x},
                [from = x.dtype()](const Tensor& dy, Gradients& out) {
                  out.add(0, [&] { return to(dy, from); });
                });
}

}  // namespace lockstep
