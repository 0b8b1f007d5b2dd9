#include "lockstep/nn/layers/pooling.h"

#include "lockstep/nn/layers/describe.h"

namespace lockstep::nn {
namespace {

using internal::tuple;

// "kernel_size=(2,), stride=(2,), padding=(0,)"
template <class Pool>
std::string window(const Pool& pool) {
  const std::vector<int64_t>& stride = pool.stride.empty() ? pool.kernel_size : pool.stride;
  return "kernel_size=" + tuple(pool.kernel_size) + ", stride=" + tuple(stride) +
         ", padding=" + tuple(pool.padding);
}

}  // namespace

template <int kSpatial>
MaxPool<kSpatial>::MaxPool(std::vector<int64_t> kernel_size, Options options)
    : pool{.kernel_size = std::move(kernel_size),
           .stride = std::move(options.stride),
           .padding = std::move(options.padding),
           .dilation = std::move(options.dilation),
           .ceil_mode = options.ceil_mode} {}

template <int kSpatial>
Tensor MaxPool<kSpatial>::forward(const Tensor& x) {
  return kSpatial == 1 ? max_pool1d(x, pool) : max_pool2d(x, pool);
}

template <int kSpatial>
std::string MaxPool<kSpatial>::type_name() const {
  return concat({"MaxPool", kSpatial, "d"});
}

template <int kSpatial>
std::string MaxPool<kSpatial>::describe() const {
  return concat({window(pool), ", dilation=", tuple(pool.dilation),
                 ", ceil_mode=", internal::text(pool.ceil_mode)});
}

template <int kSpatial>
AvgPool<kSpatial>::AvgPool(std::vector<int64_t> kernel_size, Options options)
    : pool{.kernel_size = std::move(kernel_size),
           .stride = std::move(options.stride),
           .padding = std::move(options.padding),
           .ceil_mode = options.ceil_mode,
           .count_include_pad = options.count_include_pad,
           .divisor_override = options.divisor_override} {}

template <int kSpatial>
Tensor AvgPool<kSpatial>::forward(const Tensor& x) {
  return kSpatial == 1 ? avg_pool1d(x, pool) : avg_pool2d(x, pool);
}

template <int kSpatial>
std::string AvgPool<kSpatial>::type_name() const {
  return concat({"AvgPool", kSpatial, "d"});
}

template <int kSpatial>
std::string AvgPool<kSpatial>::describe() const {
  return window(pool);
}

template struct MaxPool<1>;
template struct MaxPool<2>;
template struct AvgPool<1>;
template struct AvgPool<2>;

std::string AdaptiveAvgPool2d::describe() const { return "output_size=" + tuple(output_size); }

}  // namespace lockstep::nn
