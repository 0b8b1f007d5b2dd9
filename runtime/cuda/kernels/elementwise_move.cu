#include <limits>
#include <type_traits>

#include "lockstep/runtime/cuda/kernels/elementwise.h"
#include "lockstep/runtime/cuda/kernels/maps.h"
#include "lockstep/runtime/cuda/kernels/transpose.h"

namespace lockstep::cuda {
namespace {

// Calls visit with a value of what kernels compute the dtype in.
template <class Visit>
void with_compute_type(DType dtype, const Visit& visit) {
  if (dtype == DType::f64) {
    visit(double{});
  } else if (is_floating(dtype)) {
    visit(float{});
  } else {
    visit(int64_t{});
  }
}

// Calls visit with an unsigned integer of the dtype's size.
template <class Visit>
void with_bits(DType dtype, const Visit& visit) {
  switch (size_of(dtype)) {
    case 1: return visit(uint8_t{});
    case 2: return visit(uint16_t{});
    case 4: return visit(uint32_t{});
    default: return visit(uint64_t{});
  }
}

// Values move as they are.
template <class Bits>
struct Select {
  template <int kItems>
  LOCKSTEP_HD void operator()(const Items<4, kItems>& items) const {
    uint8_t condition[kItems];
    Bits a[kItems], b[kItems];
    items.load_bits(0, condition);
    items.load_bits(1, a);
    items.load_bits(2, b);
    for (int j = 0; j < kItems; ++j) a[j] = condition[j] != 0 ? a[j] : b[j];
    items.store_bits(3, a);
  }
};

template <class Bits>
struct Move {
  template <int kItems>
  LOCKSTEP_HD void operator()(const Items<2, kItems>& items) const {
    Bits values[kItems];
    items.load_bits(0, values);
    items.store_bits(1, values);
  }
};

// From floating values integers get what is nearest to 0, or nearest at all: NaN becomes 0.
template <class FromType, class ToType>
struct Convert {
  using In = FromType;
  using Out = ToType;
  static constexpr int kInputs = 1;
  bool to_truth = false;
  int64_t low = 0, high = 0;  // of the integers

  explicit Convert(DType to) : to_truth(to == DType::boolean) {
    switch (to) {
      case DType::u8: high = std::numeric_limits<uint8_t>::max(); break;
      case DType::i32:
        low = std::numeric_limits<int32_t>::min();
        high = std::numeric_limits<int32_t>::max();
        break;
      default:
        low = std::numeric_limits<int64_t>::min();
        high = std::numeric_limits<int64_t>::max();
    }
  }
  LOCKSTEP_HD Out operator()(const In (&values)[1]) const {
    const In value = values[0];
    if constexpr (std::is_same_v<Out, int64_t>) {
      if (to_truth) return value != In(0) ? 1 : 0;
      if constexpr (!std::is_same_v<In, int64_t>) {
        if (value != value) return 0;
        if (value <= static_cast<In>(low)) return low;
        if (value >= static_cast<In>(high)) return high;
      }
    }
    return static_cast<Out>(value);
  }
};

template <class C>
struct Constant {
  using In = C;
  using Out = C;
  static constexpr int kInputs = 1;  // without data
  C value;

  LOCKSTEP_HD C operator()(const C (&)[1]) const { return value; }
};

template <class C>
struct ScaleAdd {
  using In = C;
  using Out = C;
  static constexpr int kInputs = 2;
  C alpha, beta;

  LOCKSTEP_HD C operator()(const C (&values)[2]) const {
    const C scaled = alpha * values[0];
    return beta == C(0) ? scaled : scaled + beta * values[1];
  }
};

// Whether both are one run of memory in the same order.
bool is_one_run(const Region<2>& region) {
  const auto& layout = region.layout;
  return layout.rank == 0 ||
         (layout.rank == 1 && layout.strides[0][0] == 1 && layout.strides[1][0] == 1);
}

void copy_bits(const View& from, const View& to, Queue& queue) {
  const Cut<2> cut({&from, &to}, kPack);
  for (int64_t i = 0; i < cut.count(); ++i) {
    const Region<2> region = cut.region(i);
    if (is_one_run(region)) {
      queue.copy(region.operands[1].data, region.operands[0].data,
                 size_t{region.count} * size_of(to.dtype));
    } else if (!transpose(region, queue)) {
      with_bits(to.dtype,
                [&]<class Bits>(Bits) { launch_region<kPack>(Move<Bits>{}, region, queue); });
    }
  }
}

}  // namespace

void where(const View& condition, const View& a, const View& b, const View& out, Queue& queue) {
  with_bits(out.dtype, [&]<class Bits>(Bits) {
    launch_regions<kPack>(Select<Bits>{}, {&condition, &a, &b, &out}, queue);
  });
}

void copy(const View& from, const View& to, Queue& queue) {
  const bool bits_stay =
      from.dtype == to.dtype || (from.dtype == DType::boolean && to.dtype == DType::u8);
  if (bits_stay) return copy_bits(from, to, queue);
  with_compute_type(from.dtype, [&]<class From>(From) {
    with_compute_type(to.dtype, [&]<class To>(To) {
      constexpr int kItems = kItemsOf<From, To>;
      const Map<Convert<From, To>> convert{Convert<From, To>(to.dtype)};
      const Cut<2> cut({&from, &to}, kItems);
      for (int64_t i = 0; i < cut.count(); ++i) {
        const Region<2> region = cut.region(i);
        if (!transpose(region, queue)) launch_region<kItems>(convert, region, queue);
      }
    });
  });
}

void fill(const View& to, double value, Queue& queue) {
  const View nothing;
  with_compute_type(to.dtype, [&]<class C>(C) {
    const C converted = Convert<double, C>(to.dtype)({value});
    launch_map(Constant<C>{converted}, {&nothing, &to}, queue);
  });
}

void scale_add(double alpha, const View& x, double beta, const View& y, Queue& queue) {
  const View nothing;
  with_compute_type(y.dtype, [&]<class C>(C) {
    launch_map(ScaleAdd<C>{static_cast<C>(alpha), static_cast<C>(beta)},
               {&x, beta == 0 ? &nothing : &y, &y}, queue);
  });
}

}  // namespace lockstep::cuda
