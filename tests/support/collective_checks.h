#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "lockstep/collectives/communicator.h"

// Every collective on values whose result is known on each rank, exact in every dtype. Throws Error
// at the first wrong element.
namespace lockstep::testing {

inline constexpr DType kNumberTypes[] = {DType::f64, DType::f32, DType::bf16, DType::f16,
                                         DType::i64, DType::i32, DType::u8};

inline int small_value(int rank, int64_t i) { return static_cast<int>((i * 7 + rank * 3 + 1) % 5); }

template <class T>
using Arithmetic =
    std::conditional_t<std::is_same_v<T, BFloat16> || std::is_same_v<T, Float16>, float, T>;

template <class T>
T reduced_value(ReduceOp reduction, int size, int64_t i) {
  int total = small_value(0, i);
  for (int rank = 1; rank < size; ++rank) {
    const int value = small_value(rank, i);
    if (reduction == ReduceOp::max) {
      total = std::max(total, value);
    } else if (reduction == ReduceOp::min) {
      total = std::min(total, value);
    } else {
      total += value;
    }
  }
  using A = Arithmetic<T>;
  if (reduction != ReduceOp::mean) return static_cast<T>(static_cast<A>(total));
  return static_cast<T>(static_cast<A>(total) * (A(1) / static_cast<A>(size)));
}

// An array with a guard element behind it that nobody may touch.
template <class T>
class Guarded {
 public:
  explicit Guarded(int64_t elements)
      : Guarded(Array::empty({elements + 1}, dtype_of<T>), elements) {}
  // In `whole`, which has one element more.
  Guarded(Array whole, int64_t elements) : whole_(std::move(whole)), elements_(elements) {
    std::fill_n(values(), elements + 1, static_cast<T>(Arithmetic<T>(99)));
  }
  Array array() const { return whole_.narrow(0, 0, elements_); }
  T* values() const { return whole_.data<T>(); }

  template <class Expected>
  void check(const char* what, const Communicator& communicator, Expected expected) const {
    for (int64_t i = 0; i <= elements_; ++i) {
      const auto want = static_cast<double>(static_cast<Arithmetic<T>>(
          i < elements_ ? expected(i) : static_cast<T>(Arithmetic<T>(99))));
      const auto found = static_cast<double>(static_cast<Arithmetic<T>>(values()[i]));
      LOCKSTEP_CHECK(want == found, what, " of ", elements_, " ", dtype_of<T>, " on rank ",
                     communicator.rank(), " of ", communicator.size(), ": element ", i, " is ",
                     found, ", expected ", want);
    }
  }

 private:
  Array whole_;
  int64_t elements_;
};

template <class T>
T typed_value(int rank, int64_t i) {
  return static_cast<T>(static_cast<Arithmetic<T>>(small_value(rank, i)));
}

template <class T>
void check_all_reduce(Communicator& communicator, int64_t elements, ReduceOp reduction) {
  Guarded<T> values(elements);
  for (int64_t i = 0; i < elements; ++i)
    values.values()[i] = typed_value<T>(communicator.rank(), i);
  communicator.all_reduce(values.array(), reduction, {.what = "test"}).wait();
  values.check("all_reduce", communicator,
               [&](int64_t i) { return reduced_value<T>(reduction, communicator.size(), i); });
}

// In memory for buckets, which the transport may reduce another way.
template <class T>
void check_bucket(Communicator& communicator, int64_t elements, ReduceOp reduction) {
  Guarded<T> values(communicator.allocate_bucket(elements + 1, dtype_of<T>), elements);
  for (int repeat = 0; repeat < 3; ++repeat) {
    for (int64_t i = 0; i < elements; ++i)
      values.values()[i] = typed_value<T>(communicator.rank(), i);
    communicator.all_reduce(values.array(), reduction, {.what = "bucket"}).wait();
    values.check("all_reduce of a bucket", communicator,
                 [&](int64_t i) { return reduced_value<T>(reduction, communicator.size(), i); });
  }
}

template <class T>
void check_reduce_scatter(Communicator& communicator, int64_t elements, ReduceOp reduction) {
  const int rank = communicator.rank();
  const int size = communicator.size();
  const int64_t first = rank * elements;
  const auto expected = [&](int64_t i) { return reduced_value<T>(reduction, size, first + i); };
  Guarded<T> input(elements * size);
  for (int64_t i = 0; i < elements * size; ++i) input.values()[i] = typed_value<T>(rank, i);
  Guarded<T> output(elements);
  communicator.reduce_scatter(input.array(), output.array(), reduction).wait();
  output.check("reduce_scatter", communicator, expected);
  input.check("reduce_scatter's input", communicator,
              [&](int64_t i) { return typed_value<T>(rank, i); });

  const Array slice = input.array().narrow(0, first, elements);
  communicator.reduce_scatter(input.array(), slice, reduction).wait();
  input.check("reduce_scatter in place", communicator, [&](int64_t i) {
    return i >= first && i < first + elements ? expected(i - first) : typed_value<T>(rank, i);
  });
}

template <class T>
void check_all_gather(Communicator& communicator, int64_t elements) {
  const int rank = communicator.rank();
  const int64_t total = elements * communicator.size();
  const auto expected = [&](int64_t i) {
    return typed_value<T>(static_cast<int>(i / elements), i % elements);
  };
  Guarded<T> input(elements);
  for (int64_t i = 0; i < elements; ++i) input.values()[i] = typed_value<T>(rank, i);
  Guarded<T> output(total);
  communicator.all_gather(input.array(), output.array()).wait();
  output.check("all_gather", communicator, expected);

  Guarded<T> in_place(total);
  std::copy_n(input.values(), elements, in_place.values() + rank * elements);
  const Array slice = in_place.array().narrow(0, rank * elements, elements);
  communicator.all_gather(slice, in_place.array()).wait();
  in_place.check("all_gather in place", communicator, expected);
}

template <class T>
void check_broadcast(Communicator& communicator, int64_t elements) {
  for (int root = 0; root < communicator.size(); ++root) {
    Guarded<T> values(elements);
    for (int64_t i = 0; i < elements; ++i) {
      values.values()[i] = typed_value<T>(communicator.rank(), i);
    }
    communicator.broadcast(values.array(), root).wait();
    values.check("broadcast", communicator, [&](int64_t i) { return typed_value<T>(root, i); });
  }
}

// Every collective on `elements` of `dtype` (a number type).
inline void check_collectives(Communicator& communicator, DType dtype, int64_t elements) {
  dispatch(dtype, [&]<class T>(Type<T>) {
    if constexpr (!std::is_same_v<T, bool>) {
      for (const ReduceOp reduction :
           {ReduceOp::sum, ReduceOp::mean, ReduceOp::max, ReduceOp::min}) {
        if (reduction == ReduceOp::mean && !is_floating(dtype)) continue;
        check_all_reduce<T>(communicator, elements, reduction);
        check_bucket<T>(communicator, elements, reduction);
        check_reduce_scatter<T>(communicator, elements, reduction);
      }
      check_all_gather<T>(communicator, elements);
      check_broadcast<T>(communicator, elements);
    }
  });
  communicator.barrier().wait();
}

// Several collectives in flight at once, waited for in the reverse order.
inline void check_in_flight(Communicator& communicator, int count, int64_t elements) {
  std::vector<Array> values;
  std::vector<Work> works;
  for (int n = 0; n < count; ++n) {
    values.push_back(Array::empty({elements}, DType::f32));
    std::fill_n(values.back().data<float>(), elements, static_cast<float>(n + communicator.rank()));
    works.push_back(
        communicator.all_reduce(values.back(), ReduceOp::sum, {.what = "in flight", .bucket = n}));
  }
  const int size = communicator.size();
  for (int n = count - 1; n >= 0; --n) {
    works[static_cast<size_t>(n)].wait();
    const auto want = static_cast<float>(n * size + size * (size - 1) / 2);
    const float* found = values[static_cast<size_t>(n)].data<float>();
    for (int64_t i = 0; i < elements; ++i) {
      LOCKSTEP_CHECK(found[i] == want, "in flight: element ", i, " of ", n, " is ",
                     static_cast<double>(found[i]), ", expected ", static_cast<double>(want));
    }
  }
}

// Even and odd ranks apart, in reverse order.
inline void check_split(Communicator& communicator) {
  const int rank = communicator.rank();
  const auto part = communicator.split(rank % 2, -rank);
  const int members = (communicator.size() + (rank % 2 == 0 ? 1 : 0)) / 2;
  LOCKSTEP_CHECK(part->size() == members, "split: size is ", part->size(), ", expected ", members);
  LOCKSTEP_CHECK(part->rank() == members - 1 - rank / 2, "split: rank ", rank, " became ",
                 part->rank());
  const Array place = Array::empty({1}, DType::i32);
  const Array places = Array::empty({members}, DType::i32);
  *place.data<int32_t>() = rank;
  part->all_gather(place, places).wait();
  for (int i = 0; i < members; ++i) {
    const int expected = rank % 2 + 2 * (members - 1 - i);
    LOCKSTEP_CHECK(places.data<int32_t>()[i] == expected, "split: member ", i, " is ",
                   places.data<int32_t>()[i], ", expected ", expected);
  }
  check_collectives(*part, DType::f32, 100);
  check_collectives(communicator, DType::f32, 100);
}

}  // namespace lockstep::testing
