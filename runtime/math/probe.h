#pragma once

#include "lockstep/runtime/math/functor.h"

namespace lockstep::math {

// An operand type that computes nothing: it notes which operands a derivative was made from, and
// whether the derivative is a constant.
struct Probe {
  unsigned operands = 0;  // bit i: operand i
  bool constant = false;
  double value = 0;  // of a constant

  explicit constexpr Probe(double literal) : constant(true), value(literal) {}
  static constexpr Probe operand(int i) { return Probe(1u << i); }

  // Anything made of these, not a known constant.
  template <class... P>
  static constexpr Probe of(const P&... made_of) {
    return Probe((0u | ... | made_of.operands));
  }

 private:
  explicit constexpr Probe(unsigned bits) : operands(bits) {}
};

constexpr Probe fold(const Probe& a, const Probe& b, double value) {
  return a.constant && b.constant ? Probe(value) : Probe::of(a, b);
}
constexpr Probe operator+(const Probe& a, const Probe& b) { return fold(a, b, a.value + b.value); }
constexpr Probe operator-(const Probe& a, const Probe& b) { return fold(a, b, a.value - b.value); }
constexpr Probe operator*(const Probe& a, const Probe& b) { return fold(a, b, a.value * b.value); }
constexpr Probe operator/(const Probe& a, const Probe& b) {
  return a.constant && b.constant && b.value != 0 ? Probe(a.value / b.value) : Probe::of(a, b);
}
constexpr Probe operator-(const Probe& a) { return Probe(0.0) - a; }
constexpr Probe operator&(const Probe& a, const Probe& b) { return Probe::of(a, b); }
constexpr Probe operator==(const Probe& a, const Probe& b) { return Probe::of(a, b); }
constexpr Probe operator!=(const Probe& a, const Probe& b) { return Probe::of(a, b); }
constexpr Probe operator<(const Probe& a, const Probe& b) { return Probe::of(a, b); }
constexpr Probe operator<=(const Probe& a, const Probe& b) { return Probe::of(a, b); }
constexpr Probe operator>(const Probe& a, const Probe& b) { return Probe::of(a, b); }
constexpr Probe operator>=(const Probe& a, const Probe& b) { return Probe::of(a, b); }
constexpr Probe select(const Probe& condition, const Probe& a, const Probe& b) {
  return Probe::of(condition, a, b);
}
constexpr Probe select(bool, const Probe& a, const Probe& b) { return Probe::of(a, b); }
constexpr Probe exp(const Probe& x) { return Probe::of(x); }
constexpr Probe log(const Probe& x) { return Probe::of(x); }
constexpr Probe sqrt(const Probe& x) { return Probe::of(x); }
constexpr Probe sin(const Probe& x) { return Probe::of(x); }
constexpr Probe cos(const Probe& x) { return Probe::of(x); }
constexpr Probe tanh(const Probe& x) { return Probe::of(x); }
constexpr Probe sinh(const Probe& x) { return Probe::of(x); }
constexpr Probe cosh(const Probe& x) { return Probe::of(x); }
constexpr Probe erf(const Probe& x) { return Probe::of(x); }
constexpr Probe sigmoid(const Probe& x) { return Probe::of(x); }
constexpr Probe trunc_divide(const Probe& a, const Probe& b) { return Probe::of(a, b); }
constexpr Probe floor_divide(const Probe& a, const Probe& b) { return Probe::of(a, b); }
constexpr Probe pow(const Probe& x, const Probe& y) { return Probe::of(x, y); }

// What one partial derivative needs. For unary functors `a` is x and there is no `b`.
struct Reads {
  bool a = false;
  bool b = false;
  bool out = false;
  bool is_one = false;   // dy passes through
  bool is_zero = false;  // nothing flows
};

namespace internal {
constexpr Reads reads(const Probe& partial) {
  return {.a = (partial.operands & 1u) != 0,
          .b = (partial.operands & 2u) != 0,
          .out = (partial.operands & 4u) != 0,
          .is_one = partial.constant && partial.value == 1,
          .is_zero = partial.constant && partial.value == 0};
}
}  // namespace internal

// What the derivative of a unary functor reads.
template <class F>
constexpr Reads reads_of() {
  constexpr double kAttributes[2] = {0.5, 2.5};
  return internal::reads(
      make_functor<F>(kAttributes).grad(Probe::operand(0), Probe::operand(2))[0]);
}

// What the derivative of a binary functor by one operand reads.
template <class F>
constexpr Reads reads_of(int operand) {
  return internal::reads(
      F{}.grad(Probe::operand(0), Probe::operand(1), Probe::operand(2))[operand]);
}

// One entry a functor of the list.
template <class... F>
constexpr void fill_reads(TypeList<F...>, Reads* table) {
  ((*table++ = reads_of<F>()), ...);
}
template <class... F>
constexpr void fill_reads(TypeList<F...>, int operand, Reads* table) {
  ((*table++ = reads_of<F>(operand)), ...);
}

}  // namespace lockstep::math
