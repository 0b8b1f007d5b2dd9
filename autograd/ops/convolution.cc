#include "lockstep/autograd/ops/convolution.h"

#include <algorithm>

#include "lockstep/autograd/autocast.h"
#include "lockstep/autograd/ops/check.h"
#include "lockstep/autograd/ops/reduce.h"
#include "lockstep/autograd/ops/window_options.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/convolution.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep {
namespace {

using kernels::ImageLayout;

// A convolution is linear in each operand, and so are the two gradients that it has: each of the
// three ops is differentiated by the other two.
Tensor convolve(const char* name, const Tensor& x, const Tensor& w, const WindowOptions& options,
                const ImageLayout& y);
Tensor input_gradient(const char* name, const Tensor& dy, const Tensor& w,
                      const WindowOptions& options, const ImageLayout& x, const Into& into);
Tensor weight_gradient(const char* name, const Tensor& dy, const Tensor& x,
                       const WindowOptions& options, const Shape& w, const Into& into);

Tensor convolve(const char* name, const Tensor& x, const Tensor& w, const WindowOptions& options,
                const ImageLayout& y) {
  const std::string attributes = internal::describe(options);
  return record({name, attributes}, kernels::convolution(name, x.value(), w.value(), options, y),
                {&x, &w},
                [name, options, x_layout = kernels::layout_of(x.value()), w_shape = w.shape(),
                 x = Saved(x, w.requires_grad()),
                 w = Saved(w, x.requires_grad())](const Tensor& dy, Gradients& out) {
                  out.add(0, [&](const Into& into) {
                    return input_gradient(name, dy, *w, options, x_layout, into);
                  });
                  out.add(1, [&](const Into& into) {
                    return weight_gradient(name, dy, *x, options, w_shape, into);
                  });
                });
}

Tensor input_gradient(const char* name, const Tensor& dy, const Tensor& w,
                      const WindowOptions& options, const ImageLayout& x, const Into& into) {
  const std::string attributes = internal::describe(options);
  return record({"convolution_input_gradient", attributes},
                kernels::convolution_input_gradient(name, dy.value(), w.value(), options, x, into),
                {&dy, &w},
                [name, options, dy_layout = kernels::layout_of(dy.value()), w_shape = w.shape(),
                 dy = Saved(dy, w.requires_grad()),
                 w = Saved(w, dy.requires_grad())](const Tensor& dx, Gradients& out) {
                  out.add(0, [&] { return convolve(name, dx, *w, options, dy_layout); });
                  out.add(1, [&](const Into& into) {
                    return weight_gradient(name, *dy, dx, options, w_shape, into);
                  });
                });
}

Tensor weight_gradient(const char* name, const Tensor& dy, const Tensor& x,
                       const WindowOptions& options, const Shape& w, const Into& into) {
  const std::string attributes = internal::describe(options);
  return record({"convolution_weight_gradient", attributes},
                kernels::convolution_weight_gradient(name, dy.value(), x.value(), options, w, into),
                {&dy, &x},
                [name, options, dy_layout = kernels::layout_of(dy.value()),
                 x_layout = kernels::layout_of(x.value()), dy = Saved(dy, x.requires_grad()),
                 x = Saved(x, dy.requires_grad())](const Tensor& dw, Gradients& out) {
                  out.add(0, [&] { return convolve(name, *x, dw, options, dy_layout); });
                  out.add(1, [&](const Into& into) {
                    return input_gradient(name, *dy, dw, options, x_layout, into);
                  });
                });
}

// y [batch, channels, …] + bias [channels], in y's own memory: nobody has read it yet.
Tensor add_bias(const char* name, const Tensor& y, const Tensor& bias) {
  if (!bias) return y;
  LOCKSTEP_CHECK(
      bias.shape() == Shape{y.dim(1)} && bias.dtype() == y.dtype() && bias.device() == y.device(),
      name, ": bias of shape ", bias.shape(), " and dtype ", bias.dtype(), ", expected ",
      Shape{y.dim(1)}, " of ", y.dtype(), " on the input's device");
  Shape wide = Shape::filled(y.rank() - 1, 1);
  wide[0] = y.dim(1);
  kernels::scale_add(1, bias.value().reshape(wide), 1, y.value());
  return record({"add_bias"}, y.value(), {&y, &bias}, [wide](const Tensor& dy, Gradients& out) {
    out.add(0, dy);
    out.add(1, [&](Into into) -> Tensor {
      const Shape narrow{wide[0]};
      if (recording()) return reshape(sum_to(dy, wide), narrow);
      if (into) into.destination = into.destination.reshape(wide);
      return kernels::sum_to(dy.value(), wide, into).reshape(narrow);
    });
  });
}

void check_weight(const char* name, const Tensor& x, const Tensor& w, int spatial) {
  internal::check_given(name, w);
  LOCKSTEP_CHECK(w.rank() == spatial + 2, name, ": input of shape ", x.shape(),
                 " and weight of shape ", w.shape(), ", expected a weight of rank ", spatial + 2);
}

// The options with the weight's kernel; checks them and the image.
WindowOptions checked_options(const char* name, int spatial, const Tensor& x, const Tensor& w,
                              const internal::WindowArguments& arguments, int64_t groups) {
  internal::check_given(name, x);
  check_weight(name, x, w, spatial);
  WindowOptions options = internal::window_options(name, spatial, arguments);
  for (int i = 0; i < spatial; ++i) options.kernel[i] = w.dim(2 + i);
  options.groups = groups;
  kernels::check_image(name, x.value(), options);
  return options;
}

bool wants_channels_last(const Tensor& x, const Tensor& w) {
  return kernels::is_channels_last(x.value()) || kernels::is_channels_last(w.value());
}

Tensor convolution(const char* name, int spatial, const Tensor& x, const Tensor& weight,
                   const Tensor& bias, const ConvOptions& given) {
  if (autocasts(name, {&x, &weight, &bias})) {
    return convolution(name, spatial, autocast(name, x), autocast(name, weight),
                       bias ? autocast(name, bias) : bias, given);
  }
  return internal::with_batch(x, spatial, [&](const Tensor& images) {
    WindowOptions options =
        checked_options(name, spatial, images, weight,
                        {{}, given.stride, given.padding, given.dilation}, given.groups);
    Shape shape{images.dim(0), weight.dim(0)};
    for (int i = 0; i < spatial; ++i) {
      int64_t after = options.padding[i];
      if (given.same) {
        LOCKSTEP_CHECK(options.stride[i] == 1, name, ": stride ", options.stride[i],
                       " with padding same, expected 1");
        const int64_t both = options.dilation[i] * (options.kernel[i] - 1);
        options.padding[i] = both / 2;
        after = both - both / 2;
      }
      shape.append(
          kernels::window_count(name, images.value(), images.dim(2 + i), options, i, after));
    }
    const ImageLayout layout{shape, wants_channels_last(images, weight)};
    return add_bias(name, convolve(name, images, weight, options, layout), bias);
  });
}

Tensor transposed(const char* name, int spatial, const Tensor& x, const Tensor& weight,
                  const Tensor& bias, const ConvTransposeOptions& given) {
  if (autocasts(name, {&x, &weight, &bias})) {
    return transposed(name, spatial, autocast(name, x), autocast(name, weight),
                      bias ? autocast(name, bias) : bias, given);
  }
  return internal::with_batch(x, spatial, [&](const Tensor& images) {
    const WindowOptions options =
        checked_options(name, spatial, images, weight,
                        {{}, given.stride, given.padding, given.dilation}, given.groups);
    // The list is checked like the others.
    const WindowOptions more = internal::window_options(
        name, spatial, {{}, given.stride, given.output_padding, given.dilation});
    Shape shape{images.dim(0), weight.dim(1) * options.groups};
    for (int i = 0; i < spatial; ++i) {
      const int64_t extra = more.padding[i];
      LOCKSTEP_CHECK(extra >= 0 && extra < std::max(options.stride[i], options.dilation[i]), name,
                     ": output_padding ", extra, " of spatial dimension ", i,
                     ", expected less than stride ", options.stride[i], " or dilation ",
                     options.dilation[i]);
      const int64_t size = (images.dim(2 + i) - 1) * options.stride[i] - 2 * options.padding[i] +
                           options.dilation[i] * (options.kernel[i] - 1) + extra + 1;
      LOCKSTEP_CHECK(size >= 1, name, ": spatial dimension ", i, " of input of shape ", x.shape(),
                     " becomes ", size, ", expected at least 1");
      shape.append(size);
    }
    const ImageLayout layout{shape, wants_channels_last(images, weight)};
    return add_bias(name, input_gradient(name, images, weight, options, layout, {}), bias);
  });
}

}  // namespace

Tensor conv1d(const Tensor& x, const Tensor& weight, const Tensor& bias,
              const ConvOptions& options) {
  return convolution("conv1d", 1, x, weight, bias, options);
}

Tensor conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias,
              const ConvOptions& options) {
  return convolution("conv2d", 2, x, weight, bias, options);
}

Tensor conv3d(const Tensor& x, const Tensor& weight, const Tensor& bias,
              const ConvOptions& options) {
  return convolution("conv3d", 3, x, weight, bias, options);
}

Tensor conv_transpose1d(const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const ConvTransposeOptions& options) {
  return transposed("conv_transpose1d", 1, x, weight, bias, options);
}

Tensor conv_transpose2d(const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const ConvTransposeOptions& options) {
  return transposed("conv_transpose2d", 2, x, weight, bias, options);
}

Tensor conv_transpose3d(const Tensor& x, const Tensor& weight, const Tensor& bias,
                        const ConvTransposeOptions& options) {
  return transposed("conv_transpose3d", 3, x, weight, bias, options);
}

Tensor channels_last(const Tensor& x) {
  return record({"channels_last"}, kernels::channels_last("channels_last", x.value()), {&x},
                [](const Tensor& dy, Gradients& out) { out.add(0, dy); });
}

}  // namespace lockstep
