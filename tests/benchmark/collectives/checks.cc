#include "benchmark/collectives/checks.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <utility>

#include "lockstep/runtime/math/binary.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::benchmark {
namespace {

constexpr int64_t kAround = 5;  // elements on each side of what a call may touch
constexpr double kGuard = 99;
constexpr int64_t kCompareAtOnce = 1 << 26;

// Values below this, so that the sum over all ranks is exact in eight bits.
int64_t period_of(int ranks) { return ranks <= 8 ? 31 : 5; }

double value_of(int rank, int64_t i, int64_t period) {
  return static_cast<double>((i * 7 + rank * 3 + 1) % period);
}

double reduced_value(ReduceOp reduction, const std::vector<int>& members, int64_t i,
                     int64_t period) {
  double result = value_of(members[0], i, period);
  for (size_t k = 1; k < members.size(); ++k) {
    const double value = value_of(members[k], i, period);
    if (reduction == ReduceOp::max) {
      result = std::max(result, value);
    } else if (reduction == ReduceOp::min) {
      result = std::min(result, value);
    } else {
      result += value;
    }
  }
  return reduction == ReduceOp::mean ? result / static_cast<double>(members.size()) : result;
}

// Zero where every step on the way is exact.
double tolerance_of(const Case& of, int ranks) {
  if (of.reduction != ReduceOp::mean || (ranks & (ranks - 1)) == 0) return 0;
  switch (of.dtype) {
    case DType::f64: return 1e-13;
    case DType::f32: return 1e-5;
    case DType::f16: return 0.06;  // two roundings of values up to 30
    default: return 0.5;
  }
}

// value(i) at each i, which repeats: a piece comes from the host, and is doubled on the device.
void fill(const Array& to, const std::function<double(int64_t)>& value, int64_t period) {
  const int64_t elements = to.elements();
  int64_t filled = std::min(elements, period * 64);
  std::vector<double> piece(static_cast<size_t>(filled));
  for (int64_t i = 0; i < filled; ++i) piece[static_cast<size_t>(i)] = value(i);
  kernels::copy_into(Array::from(piece, {filled}), to.narrow(0, 0, filled));
  while (filled < elements) {
    const int64_t count = std::min(filled, elements - filled);
    kernels::copy_into(to.narrow(0, 0, count), to.narrow(0, filled, count));
    filled += count;
  }
}

Array window(const Array& memory, DType dtype, int64_t first, int64_t elements) {
  const auto begin = memory.offset() * static_cast<int64_t>(size_of(memory.dtype()));
  return {memory.storage(),
          dtype,
          {elements},
          {1},
          begin / static_cast<int64_t>(size_of(dtype)) + first};
}

}  // namespace

const char* name_of(Call call) {
  constexpr const char* kNames[] = {"all_reduce", "reduce_scatter", "all_gather", "broadcast"};
  return kNames[static_cast<int>(call)];
}

const char* name_of(Place place) {
  constexpr const char* kNames[] = {"plain", "slice", "bucket", "host"};
  return kNames[static_cast<int>(place)];
}

std::string Case::describe() const {
  constexpr const char* kReductions[] = {"sum", "mean", "max", "min"};
  std::string text = concat({name_of(call), " of ", bytes, " bytes of ", name_of(dtype), ", ",
                             name_of(place), in_place ? ", in place" : ""});
  if (call == Call::broadcast) return concat({text, ", root ", root});
  if (call == Call::all_gather) return text;
  return concat({text, ", ", kReductions[static_cast<int>(reduction)]});
}

int64_t total_elements(const Case& of, int ranks) {
  const int64_t elements = of.bytes / static_cast<int64_t>(size_of(of.dtype));
  if (of.call == Call::all_reduce || of.call == Call::broadcast) {
    return std::max<int64_t>(elements, 1);
  }
  return std::max<int64_t>(elements / ranks, 1) * ranks;
}

Memory::Memory(Communicator& communicator, int64_t largest_bytes) {
  // Small calls have a slice for each rank all the same.
  const int64_t slack = 8 * (2 * kAround + communicator.size());
  const auto make = [&](int64_t bytes, Device device) {
    return Array::empty({bytes + slack}, DType::u8, device);
  };
  const Device device = communicator.device();
  device_ = {make(largest_bytes, device), make(largest_bytes, device)};
  bucket_ = {communicator.allocate_bucket((largest_bytes + slack + 7) / 8, DType::f64),
             device_.other};
  expected_ = make(largest_bytes, device);
  if (device == Device()) return;
  host_ = {make(kMostHostBytes, {}), make(kMostHostBytes, {})};
  expected_on_host_ = make(kMostHostBytes, {});
}

Memory::Windows Memory::windows(const Case& of, int ranks) const {
  const Pair& memory = of.place == Place::host     ? host_
                       : of.place == Place::bucket ? bucket_
                                                   : device_;
  const int64_t total = total_elements(of, ranks), part = total / ranks;
  const int64_t lead = of.place == Place::slice ? kAround : 0;
  const auto around = [&](const Array& data, int64_t elements) {
    return window(data, of.dtype, 0, lead + elements + kAround);
  };
  Windows result{.lead = lead};
  const bool gathers = of.call == Call::all_gather, scatters = of.call == Call::reduce_scatter;
  const int64_t out = scatters && !of.in_place ? part : total;
  const int64_t in = gathers && !of.in_place ? part : total;
  result.whole = around(memory.data, out);
  result.around = of.in_place ? result.whole : around(memory.other, in);
  result.output = result.whole.narrow(0, lead, out);
  result.input = result.around.narrow(0, lead, in);
  return result;
}

Array Memory::expected(const Array& like) const {
  return window(like.device() == expected_.device() ? expected_ : expected_on_host_, like.dtype(),
                0, like.elements());
}

Work start(const Case& of, Communicator& communicator, const Memory::Windows& windows) {
  const int64_t part = windows.output.elements() / communicator.size();
  const auto own = [&](const Array& whole) {
    return whole.narrow(0, part * communicator.rank(), part);
  };
  const CollectiveOptions options{.what = "benchmark"};
  switch (of.call) {
    case Call::all_reduce: return communicator.all_reduce(windows.output, of.reduction, options);
    case Call::broadcast: return communicator.broadcast(windows.output, of.root, options);
    case Call::all_gather:
      return communicator.all_gather(of.in_place ? own(windows.output) : windows.input,
                                     windows.output, options);
    case Call::reduce_scatter:
      return communicator.reduce_scatter(
          windows.input, of.in_place ? own(windows.output) : windows.output, of.reduction, options);
  }
  return {};
}

void Checks::compare(const Case& of, const Array& found,
                     const std::function<double(int64_t)>& expected, double tolerance) {
  const Array should = memory_.expected(found);
  fill(should, expected, period_of(world_.size()));
  bool right = true;
  for (int64_t first = 0; first < found.elements(); first += kCompareAtOnce) {
    const int64_t count = std::min(kCompareAtOnce, found.elements() - first);
    const Array difference =
        kernels::binary("sub", {math::index_of<math::BinaryOps, math::Sub>},
                        found.narrow(0, first, count), should.narrow(0, first, count));
    for (const ReduceOp side : {ReduceOp::max, ReduceOp::min}) {
      const double most = kernels::reduce("difference", side, difference, {}, false).item();
      right = right && std::abs(most) <= tolerance;  // not where it is NaN
    }
  }
  if (right) return;
  if (++wrong_ > 5) return;
  const auto values = found.to_vector<double>(), wanted = should.to_vector<double>();
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::abs(values[i] - wanted[i]) <= tolerance) continue;
    std::fprintf(stderr, "WRONG on rank %d: %s: element %zu of %zu is %g, expected %g\n",
                 world_.rank(), of.describe().c_str(), i, values.size(), values[i], wanted[i]);
    return;
  }
}

void Checks::check(const Case& of) {
  std::vector<int> everybody(static_cast<size_t>(world_.size()));
  std::iota(everybody.begin(), everybody.end(), 0);
  check(of, world_, everybody);
}

void Checks::check(const Case& of, Communicator& communicator, const std::vector<int>& members) {
  const int rank = communicator.rank(), ranks = communicator.size();
  const int64_t period = period_of(world_.size());
  const auto own = [&](int64_t i) {
    return value_of(members[static_cast<size_t>(rank)], i, period);
  };
  const Memory::Windows windows = memory_.windows(of, ranks);
  const int64_t part = total_elements(of, ranks) / ranks, first = part * rank;
  kernels::fill(windows.whole, kGuard);
  kernels::fill(windows.around, kGuard);
  // What an all-gather in place reads is this rank's slice.
  const bool own_slice = of.call == Call::all_gather && of.in_place;
  fill(own_slice ? windows.output.narrow(0, first, part) : windows.input, own, period);
  start(of, communicator, windows).wait();
  const bool scattered_in_place = of.call == Call::reduce_scatter && of.in_place;
  const Array result = scattered_in_place ? windows.output.narrow(0, first, part) : windows.output;
  if (std::exchange(spoil_, false)) kernels::fill(result.narrow(0, result.elements() - 1, 1), 77);

  const double tolerance = tolerance_of(of, ranks);
  const int64_t wrong = wrong_;
  switch (of.call) {
    case Call::all_gather:
      for (int r = 0; r < ranks; ++r) {
        const int member = members[static_cast<size_t>(r)];
        compare(
            of, result.narrow(0, r * part, part),
            [&](int64_t i) { return value_of(member, i, period); }, 0);
      }
      break;
    case Call::broadcast:
      compare(
          of, result,
          [&](int64_t i) { return value_of(members[static_cast<size_t>(of.root)], i, period); }, 0);
      break;
    default: {
      const int64_t from = of.call == Call::reduce_scatter ? first : 0;
      compare(
          of, result,
          [&](int64_t i) { return reduced_value(of.reduction, members, from + i, period); },
          tolerance);
    }
  }
  if (!of.in_place) compare(of, windows.input, own, 0);
  const auto guard = [](int64_t) { return kGuard; };
  const int64_t end = windows.whole.elements() - kAround;
  if (windows.lead > 0) compare(of, windows.whole.narrow(0, 0, windows.lead), guard, 0);
  compare(of, windows.whole.narrow(0, end, kAround), guard, 0);
  ++checked_;
  wrong_ = std::min(wrong_, wrong + 1);  // cases, not comparisons
}

}  // namespace lockstep::benchmark
