#include "lockstep/runtime/cpu/convolution_columns.h"

#include <algorithm>

#include "lockstep/runtime/cpu/elementwise.h"
#include "lockstep/runtime/cpu/gemm.h"
#include "lockstep/runtime/cpu/scratch.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::cpu {

namespace {

constexpr int64_t kBlockElements = 64 * 1024;  // of gathered patches
constexpr int64_t kParts = 8;                  // sums that make up a weight gradient

int64_t block_pixels(const ConvolutionGeometry& g) {
  return std::clamp<int64_t>(kBlockElements / g.patch(), 1, g.pixels());
}

// Where the channels of one group of one image begin.
template <class T>
T* group_of(const View& view, int64_t channels, int64_t image, int64_t group) {
  return view.as<T>() + image * view.strides[0] + group * channels * view.strides[1];
}

// Calls f(offset in x or -1 for padding, column) for the patches of output pixels [begin, end).
template <class F>
void for_taps(const ConvolutionGeometry& g, const View& x, int64_t begin, int64_t end, const F& f) {
  int64_t column = 0;
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    const int64_t at[3] = {pixel / (g.y[1] * g.y[2]), pixel / g.y[2] % g.y[1], pixel % g.y[2]};
    int64_t first[3];
    for (int d = 0; d < 3; ++d) first[d] = at[d] * g.stride[d] - g.padding[d];
    for (int64_t channel = 0; channel < g.in / g.groups; ++channel) {
      for (int64_t kd = 0; kd < g.kernel[0]; ++kd) {
        const int64_t depth = first[0] + kd * g.dilation[0];
        for (int64_t kh = 0; kh < g.kernel[1]; ++kh) {
          const int64_t height = first[1] + kh * g.dilation[1];
          const bool inside = depth >= 0 && depth < g.x[0] && height >= 0 && height < g.x[1];
          const int64_t row = channel * x.strides[1] + depth * x.strides[2] + height * x.strides[3];
          for (int64_t kw = 0; kw < g.kernel[2]; ++kw) {
            const int64_t width = first[2] + kw * g.dilation[2];
            const bool valid = inside && width >= 0 && width < g.x[2];
            f(valid ? row + width * x.strides[4] : -1, column++);
          }
        }
      }
    }
  }
}

// Calls f(offset in y, place in [pixels, channels of a group]) for output pixels [begin, end).
template <class F>
void for_outputs(const ConvolutionGeometry& g, const View& y, int64_t begin, int64_t end,
                 const F& f) {
  int64_t place = 0;
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    const int64_t at = pixel / (g.y[1] * g.y[2]) * y.strides[2] +
                       pixel / g.y[2] % g.y[1] * y.strides[3] + pixel % g.y[2] * y.strides[4];
    for (int64_t channel = 0; channel < g.out / g.groups; ++channel) {
      f(at + channel * y.strides[1], place++);
    }
  }
}

template <class T>
void gather_patches(const ConvolutionGeometry& g, const View& view, const T* x, int64_t begin,
                    int64_t end, T* columns) {
  for_taps(g, view, begin, end,
           [&](int64_t from, int64_t to) { columns[to] = from < 0 ? T(0) : x[from]; });
}

template <class T>
void gather_outputs(const ConvolutionGeometry& g, const View& view, const T* y, int64_t begin,
                    int64_t end, T* rows) {
  for_outputs(g, view, begin, end, [&](int64_t from, int64_t to) { rows[to] = y[from]; });
}

// Calls body(image, group, first pixel, last pixel + 1) for everything, in any order.
template <class F>
void for_blocks(const ConvolutionGeometry& g, const F& body) {
  const int64_t size = block_pixels(g);
  const int64_t blocks = (g.pixels() + size - 1) / size;
  parallel_for(g.batch * g.groups * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % blocks * size;
      body(task / blocks / g.groups, task / blocks % g.groups, first,
           std::min(g.pixels(), first + size));
    }
  });
}

template <class T>
void forward(const Loops& loops, const Convolution& c) {
  const ConvolutionGeometry& g = c.geometry;
  const int64_t out = g.out / g.groups;
  const Copy<T> weights(loops, c.w);  // [out, patch]
  for_blocks(g, [&](int64_t image, int64_t group, int64_t begin, int64_t end) {
    const Scratch<T> columns((end - begin) * g.patch());
    const Scratch<T> rows((end - begin) * out);
    gather_patches(g, c.x, group_of<const T>(c.x, g.in / g.groups, image, group), begin, end,
                   columns.get());
    gemm(loops,
         {.m = end - begin,
          .n = out,
          .k = g.patch(),
          .transpose_b = true,
          .lda = g.patch(),
          .ldb = g.patch(),
          .ldc = out},
         columns.get(), weights.data() + group * out * g.patch(), rows.get());
    T* y = group_of<T>(c.y, out, image, group);
    for_outputs(g, c.y, begin, end, [&](int64_t to, int64_t from) { y[to] = rows[from]; });
  });
}

// Patches overlap, so one thread adds all those of a group of channels of an image.
template <class T>
void input_gradient(const Loops& loops, const Convolution& c) {
  const ConvolutionGeometry& g = c.geometry;
  const int64_t out = g.out / g.groups;
  const int64_t size = block_pixels(g);
  const Copy<T> weights(loops, c.w);
  if (c.beta == 0) {
    fill(loops, c.x, 0);
  } else if (c.beta != 1) {
    scale_add(loops, c.beta, c.x, 0, c.x);
  }
  parallel_for(g.batch * g.groups, 1, [&](int64_t first, int64_t last) {
    const Scratch<T> columns(size * g.patch());
    const Scratch<T> rows(size * out);
    for (int64_t task = first; task < last; ++task) {
      const int64_t image = task / g.groups, group = task % g.groups;
      T* x = group_of<T>(c.x, g.in / g.groups, image, group);
      for (int64_t begin = 0; begin < g.pixels(); begin += size) {
        const int64_t end = std::min(g.pixels(), begin + size);
        gather_outputs(g, c.y, group_of<const T>(c.y, out, image, group), begin, end, rows.get());
        gemm(loops,
             {.m = end - begin,
              .n = g.patch(),
              .k = out,
              .lda = out,
              .ldb = g.patch(),
              .ldc = g.patch()},
             rows.get(), weights.data() + group * out * g.patch(), columns.get());
        for_taps(g, c.x, begin, end, [&](int64_t to, int64_t from) {
          if (to >= 0) x[to] += columns[from];
        });
      }
    }
  });
}

// total [out, patch] = the sum over images [first, last) of one group.
template <class T>
void add_images(const Loops& loops, const Convolution& c, int64_t group, int64_t first,
                int64_t last, T* total) {
  const ConvolutionGeometry& g = c.geometry;
  const int64_t out = g.out / g.groups;
  const int64_t size = block_pixels(g);
  const Scratch<T> columns(size * g.patch());
  const Scratch<T> rows(size * out);
  std::fill(total, total + out * g.patch(), T(0));
  for (int64_t image = first; image < last; ++image) {
    for (int64_t begin = 0; begin < g.pixels(); begin += size) {
      const int64_t end = std::min(g.pixels(), begin + size);
      gather_patches(g, c.x, group_of<const T>(c.x, g.in / g.groups, image, group), begin, end,
                     columns.get());
      gather_outputs(g, c.y, group_of<const T>(c.y, out, image, group), begin, end, rows.get());
      gemm(loops,
           {.m = out,
            .n = g.patch(),
            .k = end - begin,
            .transpose_a = true,
            .lda = out,
            .ldb = g.patch(),
            .ldc = g.patch(),
            .beta = 1},
           rows.get(), columns.get(), total);
    }
  }
}

// Parts are cut by the shape alone and added in their order: any number of threads gives the same.
template <class T>
void weight_gradient(const Loops& loops, const Convolution& c) {
  const ConvolutionGeometry& g = c.geometry;
  const int64_t parts = std::min(g.batch, kParts);
  const int64_t of_group = g.out / g.groups * g.patch();
  const int64_t elements = g.groups * of_group;
  const Scratch<T> sums(parts * elements);
  parallel_for(parts * g.groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task / g.groups, group = task % g.groups;
      add_images(loops, c, group, g.batch * part / parts, g.batch * (part + 1) / parts,
                 sums.get() + part * elements + group * of_group);
    }
  });
  for (int64_t part = 1; part < parts; ++part) {
    loops.of<T>().rows.add(sums.get() + part * elements, sums.get(), elements);
  }
  View total = c.w;
  total.data = sums.get();
  int64_t stride = 1;
  for (int i = total.rank - 1; i >= 0; stride *= total.shape[i--]) total.strides[i] = stride;
  scale_add(loops, 1, total, c.beta, c.w);
}

}  // namespace

template <class T>
void convolve_by_columns(const Loops& loops, ConvolutionPass pass, const Convolution& c) {
  switch (pass) {
    case ConvolutionPass::forward: return forward<T>(loops, c);
    case ConvolutionPass::input_gradient: return input_gradient<T>(loops, c);
    case ConvolutionPass::weight_gradient: return weight_gradient<T>(loops, c);
  }
}

template void convolve_by_columns<float>(const Loops&, ConvolutionPass, const Convolution&);
template void convolve_by_columns<double>(const Loops&, ConvolutionPass, const Convolution&);

}  // namespace lockstep::cpu
