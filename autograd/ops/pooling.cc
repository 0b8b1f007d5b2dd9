#include "lockstep/autograd/ops/pooling.h"

#include <algorithm>
#include <cmath>

#include "lockstep/autograd/ops/check.h"
#include "lockstep/autograd/ops/elementwise.h"
#include "lockstep/autograd/ops/index.h"
#include "lockstep/autograd/ops/resample.h"
#include "lockstep/autograd/ops/window_options.h"
#include "lockstep/autograd/record.h"
#include "lockstep/runtime/ops/convolution.h"

namespace lockstep {
namespace {

using internal::Resampling;
using internal::with_batch;
using Matrices = std::vector<std::shared_ptr<const Resampling>>;

const std::vector<int64_t>& stride_or(const std::vector<int64_t>& stride,
                                      const std::vector<int64_t>& kernel) {
  return stride.empty() ? kernel : stride;
}

// The image is checked too: it has elements in every spatial dimension.
void check_spatial(const char* name, const Tensor& x, const WindowOptions& options) {
  kernels::check_image(name, x.value(), options);
  for (int i = 0; i < options.spatial; ++i) {
    LOCKSTEP_CHECK(x.dim(2 + i) > 0, name, ": input of shape ", x.shape(),
                   ", expected spatial dimensions above 0");
  }
}

WindowOptions pool_options(const char* name, int spatial, const Tensor& x,
                           const internal::WindowArguments& arguments) {
  internal::check_given(name, x);
  LOCKSTEP_CHECK(!arguments.kernel.empty(), name, ": no kernel_size, expected 1 or ", spatial,
                 " entries");
  const WindowOptions options = internal::window_options(name, spatial, arguments);
  check_spatial(name, x, options);
  for (int i = 0; i < spatial; ++i) {
    const int64_t reach = options.dilation[i] * (options.kernel[i] - 1) + 1;
    LOCKSTEP_CHECK(options.padding[i] <= reach / 2, name, ": padding ", options.padding[i],
                   " of spatial dimension ", i, ", expected at most half of a window of ", reach);
  }
  return options;
}

int64_t pooled(const char* name, const Tensor& x, const WindowOptions& options, int dim,
               bool ceil_mode) {
  return kernels::window_count(name, x.value(), x.dim(2 + dim), options, dim, options.padding[dim],
                               ceil_mode);
}

// dy put back to where the maxima came from.
Tensor unpool(const Tensor& dy, const Array& places, const WindowOptions& options,
              const kernels::ImageLayout& x) {
  if (!recording()) return kernels::max_pool_backward(dy.value(), places, options, x);
  const int64_t images = x.shape[0], channels = x.shape[1];
  if (x.shape.elements() == 0) return Array::zeros(x.shape, dy.dtype(), dy.device());
  const Shape from{images, channels, dy.elements() / (images * channels)};
  const Shape to{images, channels, x.shape.elements() / (images * channels)};
  const Tensor nothing(Array::zeros(to, dy.dtype(), dy.device()));
  const Tensor place(places.reshape(from)), none = place < Tensor(Scalar(int64_t{0}));
  const Tensor spread = scatter_add(nothing, 2, masked_fill(place, none, int64_t{0}),
                                    masked_fill(reshape(dy, from), none, 0.0));
  return reshape(spread, x.shape);
}

Tensor max_pool(const char* name, int spatial, const Tensor& input, const PoolOptions& given) {
  return with_batch(input, spatial, [&](const Tensor& x) {
    const WindowOptions options =
        pool_options(name, spatial, x,
                     {given.kernel_size, stride_or(given.stride, given.kernel_size), given.padding,
                      given.dilation});
    Shape shape{x.dim(0), x.dim(1)};
    for (int i = 0; i < spatial; ++i) {
      shape.append(pooled(name, x, options, i, given.ceil_mode));
    }
    kernels::Maxima maxima = kernels::max_pool(x.value(), options, shape);
    const std::string attributes = internal::describe(options);
    return record({name, attributes}, std::move(maxima.values), {&x},
                  [places = std::move(maxima.places), options,
                   layout = kernels::layout_of(x.value())](const Tensor& dy, Gradients& out) {
                    out.add(0, [&] { return unpool(dy, places, options, layout); });
                  });
  });
}

Tensor avg_pool(const char* name, int spatial, const Tensor& input, const AvgPoolOptions& given) {
  LOCKSTEP_CHECK(!given.divisor_override || *given.divisor_override != 0, name,
                 ": divisor_override 0, expected another number");
  return with_batch(input, spatial, [&](const Tensor& x) {
    const std::vector<int64_t> ones{1};
    const WindowOptions options = pool_options(
        name, spatial, x,
        {given.kernel_size, stride_or(given.stride, given.kernel_size), given.padding, ones});
    Matrices matrices;
    for (int i = 0; i < spatial; ++i) {
      const int64_t size = x.dim(2 + i), padding = options.padding[i];
      const int64_t count = pooled(name, x, options, i, given.ceil_mode);
      Resampling::Rows rows;
      for (int64_t window = 0; window < count; ++window) {
        const int64_t start = window * options.stride[i] - padding;
        const int64_t padded_end = std::min(start + options.kernel[i], size + padding);
        const int64_t first = std::max<int64_t>(0, start), end = std::min(size, padded_end);
        auto divisor =
            static_cast<double>(given.count_include_pad ? padded_end - start : end - first);
        if (given.divisor_override) {
          divisor = i == 0 ? static_cast<double>(*given.divisor_override) : 1;
        }
        for (int64_t at = first; at < end; ++at) rows.add(at, 1 / divisor);
        rows.end_row();
      }
      matrices.push_back(std::make_shared<const Resampling>(rows, size, x.device()));
    }
    return internal::resample(x, matrices);
  });
}

Tensor adaptive_avg_pool(const char* name, int spatial, const Tensor& input,
                         const std::vector<int64_t>& sizes) {
  LOCKSTEP_CHECK(sizes.size() == 1 || static_cast<int>(sizes.size()) == spatial, name,
                 ": output size of ", sizes.size(), " entries, expected 1 or ", spatial);
  return with_batch(input, spatial, [&](const Tensor& x) {
    check_spatial(name, x, {.spatial = spatial});
    Matrices matrices;
    for (int i = 0; i < spatial; ++i) {
      const int64_t size = x.dim(2 + i);
      const int64_t asked = sizes[sizes.size() == 1 ? 0 : static_cast<size_t>(i)];
      const int64_t count = asked == -1 ? size : asked;
      internal::check_rows(name, count);
      Resampling::Rows rows;
      for (int64_t window = 0; window < count; ++window) {
        const int64_t first = window * size / count;
        const int64_t end = ((window + 1) * size + count - 1) / count;
        for (int64_t at = first; at < end; ++at) {
          rows.add(at, 1 / static_cast<double>(end - first));
        }
        rows.end_row();
      }
      matrices.push_back(std::make_shared<const Resampling>(rows, size, x.device()));
    }
    return internal::resample(x, matrices);
  });
}

// How one dimension of `from` elements becomes one of `to`. `scale`: 0 where the sizes say it.
struct Stretch {
  int64_t from, to;
  double scale;
};

// In single precision, as PyTorch finds them: indices near a border depend on it. Of images, where
// the size stays or doubles, it does not ask the scale.
Resampling::Rows nearest_rows(const Stretch& s, bool image) {
  const float step = s.scale > 0 ? static_cast<float>(1 / s.scale)
                                 : static_cast<float>(s.from) / static_cast<float>(s.to);
  Resampling::Rows rows;
  for (int64_t i = 0; i < s.to; ++i) {
    int64_t at = static_cast<int64_t>(std::floor(static_cast<float>(i) * step));
    if (image && s.to == s.from) at = i;
    if (image && s.to == 2 * s.from) at = i / 2;
    rows.add(std::min(at, s.from - 1), 1);
    rows.end_row();
  }
  return rows;
}

Resampling::Rows linear_rows(const Stretch& s, bool align_corners) {
  const auto from = static_cast<double>(s.from), to = static_cast<double>(s.to);
  double step = s.scale > 0 && s.to != s.from ? 1 / s.scale : from / to;
  if (align_corners) step = s.to > 1 ? (from - 1) / (to - 1) : 0;
  Resampling::Rows rows;
  for (int64_t i = 0; i < s.to; ++i) {
    const auto place = static_cast<double>(i);
    const double at = align_corners ? place * step : std::max(0.0, (place + 0.5) * step - 0.5);
    const int64_t low = std::min(static_cast<int64_t>(at), s.from - 1);
    const double share = std::clamp(at - static_cast<double>(low), 0.0, 1.0);
    rows.add(low, low + 1 < s.from ? 1 - share : 1);
    if (low + 1 < s.from) rows.add(low + 1, share);
    rows.end_row();
  }
  return rows;
}

Stretch stretch_of(const Tensor& x, int dim, const InterpolateOptions& options) {
  const auto entry = [dim](const auto& list) {
    return list[list.size() == 1 ? 0 : static_cast<size_t>(dim)];
  };
  Stretch s{x.dim(2 + dim), 0, 0};
  if (options.size.empty()) {
    s.scale = entry(options.scale_factor);
    const double to = std::floor(static_cast<double>(s.from) * s.scale);
    LOCKSTEP_CHECK(to >= 0 && to <= 1e18, "interpolate: scale_factor ", s.scale,
                   " of input of shape ", x.shape(), ", expected a positive number");
    s.to = static_cast<int64_t>(to);
  } else {
    s.to = entry(options.size);
  }
  internal::check_rows("interpolate", s.to);
  return s;
}

}  // namespace

Tensor max_pool1d(const Tensor& x, const PoolOptions& options) {
  return max_pool("max_pool1d", 1, x, options);
}

Tensor max_pool2d(const Tensor& x, const PoolOptions& options) {
  return max_pool("max_pool2d", 2, x, options);
}

Tensor avg_pool1d(const Tensor& x, const AvgPoolOptions& options) {
  return avg_pool("avg_pool1d", 1, x, options);
}

Tensor avg_pool2d(const Tensor& x, const AvgPoolOptions& options) {
  return avg_pool("avg_pool2d", 2, x, options);
}

Tensor adaptive_avg_pool1d(const Tensor& x, int64_t size) {
  return adaptive_avg_pool("adaptive_avg_pool1d", 1, x, {size});
}

Tensor adaptive_avg_pool2d(const Tensor& x, const std::vector<int64_t>& size) {
  return adaptive_avg_pool("adaptive_avg_pool2d", 2, x, size);
}

Tensor interpolate(const Tensor& x, const InterpolateOptions& options) {
  internal::check_given("interpolate", x);
  const bool linear = options.mode == InterpolateMode::bilinear;
  const int spatial = x.rank() - 2;
  LOCKSTEP_CHECK(linear ? spatial == 2 : spatial >= 1 && spatial <= 3,
                 "interpolate: input of shape ", x.shape(),
                 ", expected [batch, channels] and 2 spatial dimensions (nearest: 1 to 3)");
  check_spatial("interpolate", x, {.spatial = spatial});
  const size_t entries = options.size.size() + options.scale_factor.size();
  LOCKSTEP_CHECK((options.size.empty() || options.scale_factor.empty()) &&
                     (entries == 1 || static_cast<int>(entries) == spatial),
                 "interpolate: size of ", options.size.size(), " entries and scale_factor of ",
                 options.scale_factor.size(), ", expected one of them, with 1 or ", spatial);
  LOCKSTEP_CHECK(linear || !options.align_corners,
                 "interpolate: align_corners with nearest, expected it with bilinear only");
  Matrices matrices;
  for (int i = 0; i < spatial; ++i) {
    const Stretch stretch = stretch_of(x, i, options);
    matrices.push_back(std::make_shared<const Resampling>(
        linear ? linear_rows(stretch, options.align_corners) : nearest_rows(stretch, spatial == 2),
        stretch.from, x.device()));
  }
  return internal::resample(x, matrices);
}

Tensor unfold(const Tensor& input, const WindowLists& windows) {
  return with_batch(input, 2, [&](const Tensor& x) {
    internal::check_given("unfold", x);
    LOCKSTEP_CHECK(!windows.kernel_size.empty(), "unfold: no kernel_size, expected 1 or 2 entries");
    const WindowOptions options = internal::window_options(
        "unfold", 2, {windows.kernel_size, windows.stride, windows.padding, windows.dilation});
    check_spatial("unfold", x, options);
    Matrices matrices;
    int64_t count[2];
    for (int i = 0; i < 2; ++i) {
      count[i] = pooled("unfold", x, options, i, false);
      internal::check_rows("unfold", options.kernel[i] * count[i]);
      Resampling::Rows rows;
      for (int64_t tap = 0; tap < options.kernel[i]; ++tap) {
        for (int64_t window = 0; window < count[i]; ++window) {
          const int64_t at =
              window * options.stride[i] - options.padding[i] + tap * options.dilation[i];
          if (at >= 0 && at < x.dim(2 + i)) rows.add(at, 1);
          rows.end_row();
        }
      }
      matrices.push_back(std::make_shared<const Resampling>(rows, x.dim(2 + i), x.device()));
    }
    const Tensor taps =
        reshape(internal::resample(x, matrices),
                {x.dim(0), x.dim(1), options.kernel[0], count[0], options.kernel[1], count[1]});
    return reshape(
        permute(taps, {0, 1, 2, 4, 3, 5}),
        {x.dim(0), x.dim(1) * options.kernel[0] * options.kernel[1], count[0] * count[1]});
  });
}

}  // namespace lockstep
