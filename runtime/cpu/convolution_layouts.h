#pragma once

#include <cstdint>
#include <dnnl.hpp>

#include "lockstep/runtime/view.h"

// How oneDNN sees the operands of a convolution: rank-5 views [batch or out, channels, depth,
// height, width].
namespace lockstep::cpu {

using dnnl::memory;
using Desc = memory::desc;

const dnnl::engine& engine();
memory::data_type type_of(DType dtype);  // f32 or bf16

// What all parts of one call share.
struct Layouts {
  bool flat;  // no depth: two spatial dimensions
  int64_t groups;
  memory::data_type type;

  int row() const { return flat ? 1 : 0; }  // the outermost spatial dimension

  memory::dims without_depth(const int64_t* sizes, int leading) const {
    memory::dims dims(sizes, sizes + leading + 3);
    if (flat) dims.erase(dims.begin() + leading);
    return dims;
  }
  memory::dims spatial_of(const int64_t (&sizes)[3]) const { return without_depth(sizes, 0); }
};

Desc desc_of(const Layouts& layouts, const View& view);
// [out, in, …] as the library has it: [groups, out / groups, in / groups, …] where there are many.
Desc weight_desc(const Layouts& layouts, const View& w, memory::data_type type);

// A dense view of the same shape and dtype, channels innermost.
View channels_last(const View& view, void* memory);
bool is_channels_last(const View& view);

// From one layout to another, by the calling thread alone.
void reorder(const Desc& from, void* source, const Desc& to, void* target);
// The same, shared out over runs of the first dimension.
void reorder_in_parallel(const Desc& from, void* source, const Desc& to, void* target);

}  // namespace lockstep::cpu
