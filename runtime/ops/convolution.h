#pragma once

#include <cstdint>

#include "lockstep/runtime/array.h"
#include "lockstep/runtime/kernels.h"
#include "lockstep/runtime/ops/into.h"

// Array-level convolutions and pooling: they check, choose where results go, and call the device's
// kernels. `name` is the op that errors speak of. Images are [batch, channels, spatial…] with as
// many spatial dimensions as the options say.
namespace lockstep::kernels {

// The shape of an image, and whether its channels are innermost in memory.
struct ImageLayout {
  Shape shape;
  bool channels_last = false;
};

// Channels innermost, dense, and not the row-major order at the same time.
bool is_channels_last(const Array& x);
inline ImageLayout layout_of(const Array& x) { return {x.shape(), is_channels_last(x)}; }
Array empty_image(const ImageLayout& layout, DType dtype, Device device);
// The same values with the channels innermost: x itself where they are.
Array channels_last(const char* name, const Array& x);

// Throws Error unless x is a floating image, all entries of the options are in range (strides,
// dilations, kernels and groups from 1, padding from 0), and so on.
void check_image(const char* name, const Array& x, const WindowOptions& options);
// How many windows fit into `size` elements with `padding` more: Error where none does. With
// `ceil_mode` one more may hang over the end, if it begins in the image or in the padding before.
int64_t window_count(const char* name, const Array& x, int64_t size, const WindowOptions& options,
                     int dim, int64_t padding_after, bool ceil_mode = false);

// The three of them on x [batch, in, …], w [out, in / groups, …], y [batch, out, …]; checks that
// the shapes belong together. The result's shape says how far the windows go: what they reach past
// the end is padding.
Array convolution(const char* name, const Array& x, const Array& w, const WindowOptions& options,
                  const ImageLayout& y);
Array convolution_input_gradient(const char* name, const Array& dy, const Array& w,
                                 const WindowOptions& options, const ImageLayout& x,
                                 Into into = {});
Array convolution_weight_gradient(const char* name, const Array& dy, const Array& x,
                                  const WindowOptions& options, const Shape& w, Into into);

struct Maxima {
  Array values;
  Array places;  // i64, row-major among the spatial elements of the image; -1: none
};
Maxima max_pool(const Array& x, const WindowOptions& options, const Shape& y);
// In the shape and layout of the image, of which `places` are.
Array max_pool_backward(const Array& dy, const Array& places, const WindowOptions& options,
                        const ImageLayout& x);

// A sparse matrix in compressed rows: starts [rows + 1] and columns [entries] i64, weights
// [entries] f64.
struct SparseMatrix {
  Array starts, columns, weights;
};
// The matrix applied along `dim`, which gets `rows` elements.
Array resample(const Array& x, int dim, const SparseMatrix& matrix, int64_t rows);

}  // namespace lockstep::kernels
