#include "conformance/table.h"
#include "lockstep/autograd/ops.h"
#include "lockstep/autograd/ops/convolution.h"
#include "lockstep/autograd/ops/pooling.h"

namespace lockstep::conformance {
namespace {

ConvOptions conv_options(const Arguments& a) {
  ConvOptions options{.stride = a.integers("stride"),
                      .dilation = a.integers("dilation"),
                      .groups = a.integer("groups")};
  if (!a.is_string("padding")) {
    options.padding = a.integers("padding");
  } else {
    const std::string padding = a.string("padding");
    LOCKSTEP_CHECK(padding == "same" || padding == "valid", "'padding' is '", padding, "'");
    options.same = padding == "same";
  }
  return options;
}

template <class F>
Op convolution(F f) {
  return on_input([f](const Tensor& x, const Arguments& a) {
    return f(x, a.tensor("weight"), a.optional_tensor("bias"), conv_options(a));
  });
}

Tensor call_conv_transpose2d(const Tensor& x, const Arguments& a) {
  return conv_transpose2d(x, a.tensor("weight"), a.optional_tensor("bias"),
                          {.stride = a.integers("stride"),
                           .padding = a.integers("padding"),
                           .output_padding = a.integers("output_padding"),
                           .dilation = a.integers("dilation"),
                           .groups = a.integer("groups")});
}

Tensor call_max_pool2d(const Tensor& x, const Arguments& a) {
  return max_pool2d(x, {.kernel_size = a.integers("kernel_size"),
                        .stride = a.integers("stride"),
                        .padding = a.integers("padding"),
                        .dilation = a.integers("dilation"),
                        .ceil_mode = a.boolean("ceil_mode")});
}

Tensor call_avg_pool2d(const Tensor& x, const Arguments& a) {
  return avg_pool2d(x, {.kernel_size = a.integers("kernel_size"),
                        .stride = a.integers("stride"),
                        .padding = a.integers("padding"),
                        .ceil_mode = a.boolean("ceil_mode"),
                        .count_include_pad = a.boolean("count_include_pad"),
                        .divisor_override = a.optional_integer("divisor_override")});
}

Tensor call_adaptive_avg_pool2d(const Tensor& x, const Arguments& a) {
  // PyTorch's None keeps a size.
  Json sizes = a.attribute("output_size");
  if (!sizes.is_array()) sizes = Json::array({sizes, sizes});
  std::vector<int64_t> size;
  for (const Json& entry : sizes) {
    LOCKSTEP_CHECK(entry.is_null() || entry.is_number_integer(), "output_size is ", sizes.dump());
    size.push_back(entry.is_null() ? -1 : entry.get<int64_t>());
  }
  return adaptive_avg_pool2d(x, size);
}

Tensor call_interpolate(const Tensor& x, const Arguments& a) {
  const std::string mode = a.string("mode");
  LOCKSTEP_CHECK(mode == "nearest" || mode == "bilinear", "'mode' is '", mode, "'");
  return interpolate(
      x, {.size = a.integers("size"),
          .scale_factor = a.numbers("scale_factor"),
          .mode = mode == "nearest" ? InterpolateMode::nearest : InterpolateMode::bilinear,
          .align_corners = !a.is_null("align_corners") && a.boolean("align_corners")});
}

Tensor call_unfold(const Tensor& x, const Arguments& a) {
  return unfold(x, {.kernel_size = a.integers("kernel_size"),
                    .stride = a.integers("stride"),
                    .padding = a.integers("padding"),
                    .dilation = a.integers("dilation")});
}

}  // namespace

void add_convolution(OpTable& table) {
  table["conv1d"] = convolution([](const auto&... x) { return conv1d(x...); });
  table["conv2d"] = convolution([](const auto&... x) { return conv2d(x...); });
  table["conv3d"] = convolution([](const auto&... x) { return conv3d(x...); });
  table["conv_transpose2d"] = on_input(call_conv_transpose2d);
  table["max_pool2d"] = on_input(call_max_pool2d);
  table["avg_pool2d"] = on_input(call_avg_pool2d);
  table["adaptive_avg_pool2d"] = on_input(call_adaptive_avg_pool2d);
  table["interpolate"] = on_input(call_interpolate);
  table["unfold"] = on_input(call_unfold);
}

}  // namespace lockstep::conformance
