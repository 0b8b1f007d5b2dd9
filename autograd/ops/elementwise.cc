#include "lockstep/autograd/ops/elementwise.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/autograd/promotion.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/math/probe.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep {
namespace {

// What a function is defined on; each includes those before it.
enum class Domain : uint8_t { floating, integers, boolean };

template <class Integers, class Booleans, class F>
constexpr Domain domain_of() {
  if (math::index_of<Booleans, F> >= 0) return Domain::boolean;
  return math::index_of<Integers, F> >= 0 ? Domain::integers : Domain::floating;
}

// A functor's derivative as a recorded formula: its grad() with Tensor for the operand type.
struct UnaryEntry {
  const char* name;
  math::Reads reads;
  Domain domain;
  Tensor (*derivative)(const Elementwise& op, const Tensor& x, const Tensor& y);
};

struct BinaryEntry {
  const char* name;
  math::Reads reads[2];
  Domain domain;
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
  return {UnaryEntry{F::name, math::reads_of<F>(),
                     domain_of<math::IntegerUnaryOps, math::BooleanUnaryOps, F>(),
                     &unary_derivative<F>}...};
}

template <class... F>
constexpr std::array<BinaryEntry, sizeof...(F)> binary_entries(math::TypeList<F...>) {
  return {BinaryEntry{F::name,
                      {math::reads_of<F>(0), math::reads_of<F>(1)},
                      domain_of<math::IntegerBinaryOps, math::BooleanBinaryOps, F>(),
                      &binary_derivative<F>}...};
}

template <class... F>
constexpr std::array<const char*, sizeof...(F)> names(math::TypeList<F...>) {
  return {F::name...};
}

constexpr auto kUnary = unary_entries(math::UnaryOps{});
constexpr auto kBinary = binary_entries(math::BinaryOps{});
constexpr auto kCompare = names(math::CompareOps{});
constexpr int kSub = math::index_of<math::BinaryOps, math::Sub>;

void check_given(const char* name, std::initializer_list<const Tensor*> operands) {
  for (const Tensor* operand : operands) {
    LOCKSTEP_CHECK(*operand, name, ": an empty tensor, expected one with values");
  }
}

// The dtype in which a function computes what promotion made `dtype`. `weak`: of numbers alone,
// whose floating dtype is f64.
DType domain_dtype(const char* name, Domain domain, DType dtype, bool weak) {
  if (is_floating(dtype)) return weak ? DType::f64 : dtype;
  if (domain == Domain::floating) return weak ? DType::f64 : DType::f32;
  LOCKSTEP_CHECK(dtype != DType::boolean || domain == Domain::boolean, name,
                 ": not defined for bool, expected integers or floating values");
  return dtype;
}

// The values of an operand in `dtype`, on the device of the operand that it meets if it is weak. Of
// two weak ones that which is on the host moves.
Array meet(const Tensor& x, const Tensor& other, DType dtype) {
  const Array value = kernels::cast(x.value(), dtype);
  const bool moves = x.is_weak_scalar() && x.device() != other.device() &&
                     (!other.is_weak_scalar() || x.device() == Device());
  if (!moves) return value;
  // A number goes there as an argument of a kernel, where a double holds it.
  const double number = value.elements() == 1 ? value.item() : 0;
  if (value.elements() != 1 || (!is_floating(dtype) && std::abs(number) > 0x1p53)) {
    return kernels::to_device(value, other.device());
  }
  return Array::full(value.shape(), number, dtype, other.device());
}

// Two operands brought to the dtype in which they are computed.
struct Pair {
  Tensor a, b;
  DType dtype;
  bool weak;  // both are, and the result

  Array left() const { return meet(a, b, dtype); }
  Array right() const { return meet(b, a, dtype); }
};

Pair promote(const char* name, Domain domain, const Tensor& a, const Tensor& b) {
  check_given(name, {&a, &b});
  const bool weak = a.is_weak_scalar() && b.is_weak_scalar();
  const DType dtype = domain_dtype(name, domain, result_type({&a, &b}), weak);
  return {a.is_weak_scalar() ? a : to(a, dtype), b.is_weak_scalar() ? b : to(b, dtype), dtype,
          weak};
}

// Nothing to promote: two floating tensors of one dtype, or one beside a weak scalar.
bool direct(const Tensor& a, const Tensor& b) {
  if (a.is_weak_scalar() || b.is_weak_scalar()) {
    return a.is_weak_scalar() != b.is_weak_scalar() &&
           is_floating(a.is_weak_scalar() ? b.dtype() : a.dtype());
  }
  return a.dtype() == b.dtype() && is_floating(a.dtype());
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

void check_divisors(const char* name, int index, const Array& divisors) {
  constexpr int kDivisions[] = {math::index_of<math::BinaryOps, math::FloorDivide>,
                                math::index_of<math::BinaryOps, math::TruncDivide>,
                                math::index_of<math::BinaryOps, math::Fmod>,
                                math::index_of<math::BinaryOps, math::Remainder>};
  if (std::ranges::find(kDivisions, index) == std::end(kDivisions)) return;
  const std::vector<int64_t> values = divisors.to_vector<int64_t>();
  LOCKSTEP_CHECK(std::ranges::find(values, 0) == values.end(), name,
                 ": an integer is divided by 0, expected other divisors");
}

// Of operands that are ready: `left` and `right` are the values of a and b, of one dtype.
Tensor binary_of(int index, const Tensor& a, const Tensor& b, const Array& left,
                 const Array& right) {
  const BinaryEntry& entry = kBinary[index];
  const Array y = kernels::binary(entry.name, {index}, left, right);
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

Tensor where_of(const Tensor& condition, const Tensor& a, const Tensor& b, const Array& left,
                const Array& right) {
  return record({"where"}, kernels::where(condition.value(), left, right), {&condition, &a, &b},
                [condition = Saved(condition), a = left.shape(), b = right.shape()](
                    const Tensor& dy, Gradients& out) {
                  out.add(1, [&] { return sum_to(where(*condition, dy, Tensor(0.0)), a); });
                  out.add(2, [&] { return sum_to(where(*condition, Tensor(0.0), dy), b); });
                });
}

}  // namespace

namespace internal {

Tensor unary(int index, const Tensor& x, std::initializer_list<double> attributes) {
  const UnaryEntry& entry = kUnary[index];
  if (autocasts(entry.name, {&x})) return unary(index, autocast(entry.name, x), attributes);
  if (!is_floating(x.dtype())) {
    const DType dtype = domain_dtype(entry.name, entry.domain, x.dtype(), x.is_weak_scalar());
    const bool weak = x.is_weak_scalar();
    if (dtype != x.dtype()) {
      return unary(index, weak ? Tensor::weak(kernels::cast(x.value(), dtype)) : to(x, dtype),
                   attributes);
    }
  }
  Elementwise op{index};
  std::copy(attributes.begin(), attributes.end(), op.attributes);
  const Array y = kernels::unary(entry.name, op, x.value());
  if (!records({&x})) {
    return x.is_weak_scalar() ? Tensor::weak(y) : constant({entry.name}, y, {&x});
  }
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
  if (autocasts(entry.name, {&a, &b})) {
    return binary(index, autocast(entry.name, a), autocast(entry.name, b));
  }
  if (direct(a, b)) {
    check_given(entry.name, {&a, &b});
    const DType dtype = a.is_weak_scalar() ? b.dtype() : a.dtype();
    return binary_of(index, a, b, meet(a, b, dtype), meet(b, a, dtype));
  }
  LOCKSTEP_CHECK(index != kSub || (a.dtype() != DType::boolean && b.dtype() != DType::boolean),
                 "sub: a bool operand, expected numbers (see logical_xor and logical_not)");
  const Pair pair = promote(entry.name, entry.domain, a, b);
  const Array left = pair.left(), right = pair.right();
  if (!is_floating(pair.dtype)) check_divisors(entry.name, index, right);
  if (pair.weak) return Tensor::weak(kernels::binary(entry.name, {index}, left, right));
  return binary_of(index, pair.a, pair.b, left, right);
}

Tensor compare(int index, const Tensor& a, const Tensor& b) {
  const char* name = kCompare[index];
  Pair pair = promote(name, Domain::boolean, a, b);
  // A number need not fit the integers that it is compared with.
  const bool number = a.is_weak_scalar() || b.is_weak_scalar();
  if (number && (pair.dtype == DType::u8 || pair.dtype == DType::i32)) {
    pair = promote(name, Domain::boolean, a.is_weak_scalar() ? a : to(a, DType::i64),
                   b.is_weak_scalar() ? b : to(b, DType::i64));
  }
  return constant({name}, kernels::compare(name, {index}, pair.left(), pair.right()), {&a, &b});
}

}  // namespace internal

Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b) {
  check_given("where", {&condition});
  const Pair pair = promote("where", Domain::boolean, a, b);
  if (!pair.weak) return where_of(condition, pair.a, pair.b, pair.left(), pair.right());
  const auto there = [&](const Array& x) { return kernels::to_device(x, condition.device()); };
  return Tensor::weak(kernels::where(condition.value(), there(pair.left()), there(pair.right())));
}

Tensor to(const Tensor& x, DType dtype) {
  check_given("to", {&x});
  if (x.dtype() == dtype && !x.is_weak_scalar()) return x;
  Array value = kernels::cast(x.value(), dtype);
  if (!is_floating(dtype)) return constant({"to", name_of(dtype)}, value, {&x});
  return record({"to", name_of(dtype)}, value, {&x},
                [from = x.dtype()](const Tensor& dy, Gradients& out) {
                  out.add(0, [&] { return to(dy, from); });
                });
}

Tensor to(const Tensor& x, Device device) {
  check_given("to", {&x});
  if (x.device() == device) return x;
  const char* kind = device.kind == DeviceKind::cpu ? "cpu" : "cuda";
  return record({"to", kind}, kernels::to_device(x.value(), device), {&x},
                [from = x.device()](const Tensor& dy, Gradients& out) {
                  out.add(0, [&] { return to(dy, from); });
                });
}

}  // namespace lockstep
