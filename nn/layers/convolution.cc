#include "lockstep/nn/layers/convolution.h"

#include <cmath>

#include "lockstep/autograd/ops/convolution.h"
#include "lockstep/nn/layers/describe.h"

namespace lockstep::nn {
namespace {

using internal::text;
using internal::tuple;

// One entry for each dimension.
std::vector<int64_t> spread(const char* what, const std::vector<int64_t>& list, int spatial) {
  if (list.size() == 1) return std::vector<int64_t>(static_cast<size_t>(spatial), list[0]);
  LOCKSTEP_CHECK(static_cast<int>(list.size()) == spatial, "convolution: ", what, " has ",
                 list.size(), " entries, expected 1 or ", spatial);
  return list;
}

void check_channels(int64_t in, int64_t out, int64_t groups) {
  LOCKSTEP_CHECK(groups > 0 && in > 0 && out > 0 && in % groups == 0 && out % groups == 0,
                 "convolution: ", in, " channels to ", out, " in ", groups,
                 " groups, expected positive multiples of the groups");
}

// weight [rows, columns, kernel…] and a bias of `out`, uniform in ±1/sqrt(columns * kernel).
template <class Layer>
void make_parameters(Layer& layer, int64_t rows, int64_t columns, int64_t out,
                     const std::vector<int64_t>& kernel) {
  Shape shape{rows, columns};
  for (int64_t size : kernel) {
    LOCKSTEP_CHECK(size > 0, "convolution: a kernel of size ", size);
    shape.append(size);
  }
  const double fan_in = static_cast<double>(shape.elements()) / static_cast<double>(rows);
  const Initializer usual = Initializer::uniform(1 / std::sqrt(fan_in));
  layer.weight = Parameter(shape, layer.options.weight_initializer.value_or(usual));
  if (!layer.options.bias) return;
  layer.bias = Parameter({out}, layer.options.bias_initializer.value_or(usual));
}

template <int kSpatial>
Tensor convolve(const Tensor& x, const Tensor& weight, const Tensor& bias,
                const ConvOptions& options) {
  if constexpr (kSpatial == 1) return conv1d(x, weight, bias, options);
  if constexpr (kSpatial == 2) return conv2d(x, weight, bias, options);
  if constexpr (kSpatial == 3) return conv3d(x, weight, bias, options);
}

template <int kSpatial>
Tensor convolve_transposed(const Tensor& x, const Tensor& weight, const Tensor& bias,
                           const ConvTransposeOptions& options) {
  if constexpr (kSpatial == 1) return conv_transpose1d(x, weight, bias, options);
  if constexpr (kSpatial == 2) return conv_transpose2d(x, weight, bias, options);
  if constexpr (kSpatial == 3) return conv_transpose3d(x, weight, bias, options);
}

std::string sizes(int64_t in, int64_t out, const Shape& weight,
                  const std::vector<int64_t>& stride) {
  const std::vector<int64_t> kernel(weight.begin() + 2, weight.end());
  return concat({in, ", ", out, ", kernel_size=", tuple(kernel), ", stride=", tuple(stride)});
}

// What differs from the default.
std::string rest(const std::vector<int64_t>& padding, const std::vector<int64_t>& output_padding,
                 const std::vector<int64_t>& dilation, int64_t groups, bool bias) {
  const auto all = [](const std::vector<int64_t>& list, int64_t value) {
    for (int64_t entry : list) {
      if (entry != value) return false;
    }
    return true;
  };
  std::string result;
  if (!all(padding, 0)) result += ", padding=" + tuple(padding);
  if (!all(dilation, 1)) result += ", dilation=" + tuple(dilation);
  if (!all(output_padding, 0)) result += ", output_padding=" + tuple(output_padding);
  if (groups != 1) result += concat({", groups=", groups});
  if (!bias) result += ", bias=False";
  return result;
}

}  // namespace

template <int kSpatial>
Convolution<kSpatial>::Convolution(int64_t in_channels, int64_t out_channels,
                                   std::vector<int64_t> kernel_size, Options given)
    : options(std::move(given)) {
  check_channels(in_channels, out_channels, options.groups);
  options.stride = spread("stride", options.stride, kSpatial);
  options.padding = spread("padding", options.padding, kSpatial);
  options.dilation = spread("dilation", options.dilation, kSpatial);
  make_parameters(*this, out_channels, in_channels / options.groups, out_channels,
                  spread("kernel_size", kernel_size, kSpatial));
}

template <int kSpatial>
Tensor Convolution<kSpatial>::forward(const Tensor& x) {
  return convolve<kSpatial>(x, weight, bias.tensor_or_empty(),
                            {.stride = options.stride,
                             .padding = options.padding,
                             .dilation = options.dilation,
                             .groups = options.groups,
                             .same = options.same});
}

template <int kSpatial>
void Convolution<kSpatial>::visit(Visitor& v) {
  v("weight", weight);
  v("bias", bias);
}

template <int kSpatial>
std::string Convolution<kSpatial>::type_name() const {
  return concat({"Conv", kSpatial, "d"});
}

template <int kSpatial>
std::string Convolution<kSpatial>::describe() const {
  const Shape& shape = weight.shape();
  return sizes(shape[1] * options.groups, shape[0], shape, options.stride) +
         (options.same ? ", padding=same" : "") +
         rest(options.padding, {}, options.dilation, options.groups, options.bias);
}

template <int kSpatial>
ConvolutionTranspose<kSpatial>::ConvolutionTranspose(int64_t in_channels, int64_t out_channels,
                                                     std::vector<int64_t> kernel_size,
                                                     Options given)
    : options(std::move(given)) {
  check_channels(in_channels, out_channels, options.groups);
  options.stride = spread("stride", options.stride, kSpatial);
  options.padding = spread("padding", options.padding, kSpatial);
  options.output_padding = spread("output_padding", options.output_padding, kSpatial);
  options.dilation = spread("dilation", options.dilation, kSpatial);
  make_parameters(*this, in_channels, out_channels / options.groups, out_channels,
                  spread("kernel_size", kernel_size, kSpatial));
}

template <int kSpatial>
Tensor ConvolutionTranspose<kSpatial>::forward(const Tensor& x) {
  return convolve_transposed<kSpatial>(x, weight, bias.tensor_or_empty(),
                                       {.stride = options.stride,
                                        .padding = options.padding,
                                        .output_padding = options.output_padding,
                                        .dilation = options.dilation,
                                        .groups = options.groups});
}

template <int kSpatial>
void ConvolutionTranspose<kSpatial>::visit(Visitor& v) {
  v("weight", weight);
  v("bias", bias);
}

template <int kSpatial>
std::string ConvolutionTranspose<kSpatial>::type_name() const {
  return concat({"ConvTranspose", kSpatial, "d"});
}

template <int kSpatial>
std::string ConvolutionTranspose<kSpatial>::describe() const {
  const Shape& shape = weight.shape();
  return sizes(shape[0], shape[1] * options.groups, shape, options.stride) +
         rest(options.padding, options.output_padding, options.dilation, options.groups,
              options.bias);
}

template struct Convolution<1>;
template struct Convolution<2>;
template struct Convolution<3>;
template struct ConvolutionTranspose<1>;
template struct ConvolutionTranspose<2>;
template struct ConvolutionTranspose<3>;

}  // namespace lockstep::nn
