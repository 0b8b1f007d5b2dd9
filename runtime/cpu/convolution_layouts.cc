#include "lockstep/runtime/cpu/convolution_layouts.h"

#include <algorithm>

#include "lockstep/runtime/cpu/one_thread.h"
#include "lockstep/runtime/parallel.h"

namespace lockstep::cpu {

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

memory::data_type type_of(DType dtype) {
  return dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

namespace {

// Strides with those of dimensions of size 1, which may be anything, past all others: the library
// takes windows only where each stride steps over all smaller ones.
memory::dims tame_strides(const View& view) {
  int64_t extent = 1;
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] > 1) extent = std::max(extent, view.shape[i] * view.strides[i]);
  }
  memory::dims strides(view.strides, view.strides + view.rank);
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] == 1) strides[static_cast<size_t>(i)] = extent;
  }
  return strides;
}

}  // namespace

Desc desc_of(const Layouts& layouts, const View& view) {
  const memory::dims strides = tame_strides(view);
  return Desc(layouts.without_depth(view.shape, 2), type_of(view.dtype),
              layouts.without_depth(strides.data(), 2));
}

View channels_last(const View& view, void* memory) {
  View result = view;
  result.data = memory;
  int64_t stride = result.strides[1] = 1;
  stride *= view.shape[1];
  for (int i = view.rank - 1; i > 1; stride *= view.shape[i--]) result.strides[i] = stride;
  result.strides[0] = stride;
  return result;
}

bool is_channels_last(const View& view) {
  const View dense = channels_last(view, view.data);
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] != 1 && view.strides[i] != dense.strides[i]) return false;
  }
  return true;
}

Desc weight_desc(const Layouts& layouts, const View& w, memory::data_type type) {
  memory::dims dims = layouts.without_depth(w.shape, 2);
  const memory::dims tame = tame_strides(w);
  memory::dims strides = layouts.without_depth(tame.data(), 2);
  if (layouts.groups > 1) {
    dims[0] /= layouts.groups;
    dims.insert(dims.begin(), layouts.groups);
    strides.insert(strides.begin(), dims[1] * w.strides[0]);
    if (dims[1] == 1) strides[1] = strides[0];
  }
  return Desc(dims, type, strides);
}

void reorder(const Desc& from, void* source, const Desc& to, void* target) {
  dnnl::stream stream(engine());
  memory a(from, engine(), source), b(to, engine(), target);
  dnnl::reorder(a, b).execute(stream, a, b);
  stream.wait();
}

namespace {

int64_t block_of_first(const Desc& desc) {
  const dnnl_blocking_desc_t& blocking = desc.data.format_desc.blocking;
  int64_t block = 1;
  for (int i = 0; i < blocking.inner_nblks; ++i) {
    if (blocking.inner_idxs[i] == 0) block *= blocking.inner_blks[i];
  }
  return block;
}

}  // namespace

void reorder_in_parallel(const Desc& from, void* source, const Desc& to, void* target) {
  constexpr int64_t kBytes = 128 * 1024;
  const int64_t first = from.data.dims[0];
  const int64_t block = std::max(block_of_first(from), block_of_first(to));
  const int64_t wanted = static_cast<int64_t>(from.get_size()) / kBytes + 1;
  const int64_t size = ((first + wanted - 1) / wanted + block - 1) / block * block;
  parallel_for((first + size - 1) / size, 1, [&](int64_t begin, int64_t end) {
    const OneThread one_thread;
    for (int64_t i = begin; i < end; ++i) {
      memory::dims dims = from.dims();
      memory::dims offsets(dims.size(), 0);
      offsets[0] = i * size;
      dims[0] = std::min(size, first - offsets[0]);
      reorder(from.submemory_desc(dims, offsets), source, to.submemory_desc(dims, offsets), target);
    }
  });
}

}  // namespace lockstep::cpu
