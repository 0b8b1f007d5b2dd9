#include "lockstep/runtime/cuda/kernels/elementwise_functions.h"
#include "lockstep/runtime/math/compare.h"

namespace lockstep::cuda {
namespace {

template <class C, class List>
struct Comparisons;
template <class C, class... F>
struct Comparisons<C, math::TypeList<F...>> {
  static constexpr BinaryLaunch kAll[] = {launch_comparison<F, C>...};
};

}  // namespace

template <>
const BinaryLaunch* compare_table<float>() {
  return Comparisons<float, math::CompareOps>::kAll;
}

template <>
const BinaryLaunch* compare_table<double>() {
  return Comparisons<double, math::CompareOps>::kAll;
}

template <>
const BinaryLaunch* compare_table<int64_t>() {
  return Comparisons<int64_t, math::CompareOps>::kAll;
}

}  // namespace lockstep::cuda
