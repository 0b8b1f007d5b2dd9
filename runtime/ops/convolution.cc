#include "lockstep/runtime/ops/convolution.h"

#include <numeric>
#include <vector>

#include "lockstep/runtime/context.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace lockstep::kernels {

namespace {

constexpr int64_t kLargest = int64_t{1} << 30;  // of an option: products of two fit

// Places of the dimensions [batch, spatial…, channels] in [batch, channels, spatial…].
std::vector<int> channels_inside(int rank) {
  std::vector<int> order(static_cast<size_t>(rank));
  std::iota(order.begin(), order.end(), 0);
  order.erase(order.begin() + 1);
  order.push_back(1);
  return order;
}

struct Shapes {
  const Shape& x;
  const Shape& w;
  const Shape& y;
};

// That a convolution of these shapes is one, whichever of the three is to be computed.
void check_shapes(const char* name, const Shapes& s, const WindowOptions& options) {
  const int rank = options.spatial + 2;
  LOCKSTEP_CHECK(s.x.rank() == rank && s.w.rank() == rank && s.y.rank() == rank, name, ": shapes ",
                 s.x, ", ", s.w, " and ", s.y, ", expected rank ", rank);
  LOCKSTEP_CHECK(
      s.w[1] * options.groups == s.x[1] && s.w[0] % options.groups == 0, name, ": input of shape ",
      s.x, " and weight of shape ", s.w, " in ", options.groups,
      " groups, expected weight [out, in / groups, kernel…] with out divisible by groups");
  LOCKSTEP_CHECK(s.x[0] == s.y[0] && s.w[0] == s.y[1], name, ": ", s.y,
                 " does not belong to input of shape ", s.x, " and weight of shape ", s.w);
}

void check_operands(const char* name, const Array& a, const Array& b) {
  LOCKSTEP_CHECK(a && b, name, ": an empty tensor, expected one with values");
  LOCKSTEP_CHECK(is_floating(a.dtype()) && a.dtype() == b.dtype(), name, ": dtypes ", a.dtype(),
                 " and ", b.dtype(), ", expected one floating dtype");
  LOCKSTEP_CHECK(a.device() == b.device(), name, ": devices ", a.device().to_string(), " and ",
                 b.device().to_string());
}

}  // namespace

bool is_channels_last(const Array& x) {
  return x.rank() >= 3 && x.rank() <= 5 && !x.contiguous() &&
         x.permute(channels_inside(x.rank())).contiguous();
}

Array empty_image(const ImageLayout& layout, DType dtype, Device device) {
  if (!layout.channels_last) return Array::empty(layout.shape, dtype, device);
  const std::vector<int> order = channels_inside(layout.shape.rank());
  Shape memory = layout.shape;
  std::vector<int> back(order.size());
  for (int i = 0; i < memory.rank(); ++i) {
    memory[i] = layout.shape[order[static_cast<size_t>(i)]];
    back[static_cast<size_t>(order[static_cast<size_t>(i)])] = i;
  }
  return Array::empty(memory, dtype, device).permute(back);
}

Array channels_last(const char* name, const Array& x) {
  const Operation operation(name);
  LOCKSTEP_CHECK(x, name, ": an empty tensor, expected one with values");
  LOCKSTEP_CHECK(x.rank() >= 3 && x.rank() <= 5, name, ": shape ", x.shape(),
                 ", expected [batch, channels, spatial…] of rank 3 to 5");
  if (x.permute(channels_inside(x.rank())).contiguous()) return x;
  Array result = empty_image({x.shape(), true}, x.dtype(), x.device());
  copy_into(x, result);
  return result;
}

void check_image(const char* name, const Array& x, const WindowOptions& options) {
  LOCKSTEP_CHECK(x, name, ": an empty tensor, expected one with values");
  LOCKSTEP_CHECK(is_floating(x.dtype()), name, ": input of dtype ", x.dtype(),
                 ", expected a floating one");
  LOCKSTEP_CHECK(x.rank() == options.spatial + 2, name, ": input of shape ", x.shape(),
                 ", expected [batch, channels] and ", options.spatial, " spatial dimensions");
  LOCKSTEP_CHECK(options.groups >= 1 && options.groups <= kLargest, name, ": ", options.groups,
                 " groups, expected at least 1");
  for (int i = 0; i < options.spatial; ++i) {
    const auto check = [&](const char* what, int64_t value, int64_t least) {
      LOCKSTEP_CHECK(value >= least && value <= kLargest, name, ": ", what, " ", value,
                     " of spatial dimension ", i, ", expected ", least, " to ", kLargest);
    };
    check("kernel", options.kernel[i], 1);
    check("stride", options.stride[i], 1);
    check("dilation", options.dilation[i], 1);
    check("padding", options.padding[i], 0);
  }
}

int64_t window_count(const char* name, const Array& x, int64_t size, const WindowOptions& options,
                     int dim, int64_t padding_after, bool ceil_mode) {
  const int64_t reach = options.dilation[dim] * (options.kernel[dim] - 1) + 1;
  const int64_t free = size + options.padding[dim] + padding_after - reach;
  const int64_t stride = options.stride[dim];
  const int64_t more = ceil_mode ? stride - 1 : 0;
  LOCKSTEP_CHECK(free + more >= 0, name, ": windows of ", reach,
                 " elements (kernel and dilation) in spatial dimension ", dim,
                 " of input of shape ", x.shape(), " with padding ", options.padding[dim],
                 ", expected none larger");
  int64_t count = (free + more) / stride + 1;
  if (ceil_mode && (count - 1) * stride >= size + options.padding[dim]) --count;
  return count;
}

Array convolution(const char* name, const Array& x, const Array& w, const WindowOptions& options,
                  const ImageLayout& y) {
  const Operation operation(name);
  check_operands(name, x, w);
  check_shapes(name, {x.shape(), w.shape(), y.shape}, options);
  Array result = empty_image(y, x.dtype(), x.device());
  of(x).convolution(x.view(), w.view(), options, result.view());
  return result;
}

Array convolution_input_gradient(const char* name, const Array& dy, const Array& w,
                                 const WindowOptions& options, const ImageLayout& x, Into into) {
  const Operation operation(name);
  check_operands(name, dy, w);
  check_shapes(name, {x.shape, w.shape(), dy.shape()}, options);
  if (!into) into.destination = empty_image(x, dy.dtype(), dy.device());
  into = accept(into, x.shape, dy.dtype(), dy.device());
  of(dy).convolution_input_gradient(dy.view(), w.view(), options, into.destination.view(),
                                    into.beta);
  return into.destination;
}

Array convolution_weight_gradient(const char* name, const Array& dy, const Array& x,
                                  const WindowOptions& options, const Shape& w, Into into) {
  const Operation operation(name);
  check_operands(name, dy, x);
  check_shapes(name, {x.shape(), w, dy.shape()}, options);
  into = accept(into, w, x.dtype(), x.device());
  of(x).convolution_weight_gradient(dy.view(), x.view(), options, into.destination.view(),
                                    into.beta);
  return into.destination;
}

Maxima max_pool(const Array& x, const WindowOptions& options, const Shape& y) {
  const Operation operation("max_pool");
  int64_t pixels = 1;
  for (int i = 2; i < x.rank(); ++i) pixels *= x.dim(i);
  LOCKSTEP_CHECK(pixels < int64_t{1} << 31, "max_pool: input of shape ", x.shape(),
                 ", expected less than 2^31 elements in a channel");
  const ImageLayout layout{y, is_channels_last(x)};
  Maxima result{empty_image(layout, x.dtype(), x.device()),
                empty_image(layout, DType::i64, x.device())};
  of(x).max_pool(x.view(), options, result.values.view(), result.places.view());
  return result;
}

Array max_pool_backward(const Array& dy, const Array& places, const WindowOptions& options,
                        const ImageLayout& x) {
  const Operation operation("max_pool");
  Array dx = empty_image(x, dy.dtype(), dy.device());
  of(dy).max_pool_backward(dy.view(), places.view(), options, dx.view());
  return dx;
}

Array resample(const Array& x, int dim, const SparseMatrix& matrix, int64_t rows) {
  const Operation operation("resample");
  ImageLayout layout = layout_of(x);
  layout.shape[dim] = rows;
  Array y = empty_image(layout, x.dtype(), x.device());
  of(x).resample(x.view(), dim,
                 {matrix.starts.view(), matrix.columns.view(), matrix.weights.view()}, y.view());
  return y;
}

}  // namespace lockstep::kernels
