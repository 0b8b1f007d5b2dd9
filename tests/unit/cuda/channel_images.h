#pragma once

#include <vector>

#include "support/device_layouts.h"

// Images as kernels of channels meet them, for the tests of devices.
namespace lockstep::test {

inline const Shape kImageShapes[] = {{2, 3, 5},   {4, 8, 49},  {2, 16, 130}, {2, 5, 2001},
                                     {70, 24, 1}, {1, 1, 640}, {2, 40, 40},  {5, 7, 16},
                                     {0, 4, 3},   {1, 1, 1}};

enum class Image { channels_first, channels_last, off_by_one, sliced };
inline constexpr Image kImages[] = {Image::channels_first, Image::channels_last, Image::off_by_one,
                                    Image::sliced};

// [batch, channels, inner…] in some order in memory.
inline Array image(const Array& dense, Image kind) {
  if (kind == Image::channels_first) return dense;
  if (kind == Image::off_by_one) return laid(dense, Layout::off_by_one);
  if (kind == Image::sliced) return laid(dense, Layout::sliced);
  Shape memory{dense.dim(0)};
  std::vector<int> order{0, dense.rank() - 1};
  for (int i = 2; i < dense.rank(); ++i) {
    memory.append(dense.dim(i));
    order.push_back(i - 1);
  }
  memory.append(dense.dim(1));
  const Array last = Array::zeros(memory, dense.dtype()).permute(order);
  host_kernels().copy(dense.view(), last.view());
  return last;
}

inline DType statistics_of(DType dtype) { return dtype == DType::f64 ? dtype : DType::f32; }

template <class Check>
void for_all_images(const Check& check) {
  for (const Shape& shape : kImageShapes) {
    for (DType dtype : kFloats) {
      for (Image kind : kImages) {
        const bool in_packs = kind == Image::channels_first || kind == Image::channels_last;
        if (in_packs || dtype == DType::f32) check(shape, dtype, kind);
      }
    }
  }
}

}  // namespace lockstep::test
