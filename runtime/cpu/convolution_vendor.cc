#include "lockstep/runtime/cpu/convolution_vendor.h"

#include <algorithm>
#include <cstring>
#include <dnnl.hpp>
#include <vector>

#include "lockstep/runtime/backend.h"
#include "lockstep/runtime/cpu/convolution_layouts.h"
#include "lockstep/runtime/cpu/convolution_parts.h"
#include "lockstep/runtime/cpu/elementwise.h"
#include "lockstep/runtime/cpu/one_thread.h"
#include "lockstep/runtime/cpu/scratch.h"
#include "lockstep/runtime/parallel.h"

// oneDNN runs on the calling thread only, one part of the work at a time: our own loop shares the
// parts out. Activations go in channels-last, copied part by part where they do not lie so; weights
// in the form that the library likes best. Primitives are made anew for each call: the library
// keeps a bounded, thread-safe cache of what they consist of.
namespace lockstep::cpu {

namespace {

constexpr int64_t kPartWork = 8 * 1000 * 1000;  // multiplications that are worth a thread
constexpr int64_t kMostParts = 8;               // of a small batch: one of more is cut by images
constexpr int64_t kMostSums = 8;                // parts that add up to a weight gradient
constexpr int64_t kSumPixels = 1024;            // that make one more of them worth its addition
constexpr int64_t kSliceChannels = 64;          // output channels of a weight gradient's slice

bool multiplies_bf16() {
  const dnnl::cpu_isa isa = dnnl::get_effective_cpu_isa();
  return isa == dnnl::cpu_isa::avx512_core_bf16 || isa == dnnl::cpu_isa::avx512_core_amx;
}

// In whole cache lines: what lies behind it in memory is aligned too.
int64_t bytes_of(const View& view) {
  const int64_t bytes = view.elements() * static_cast<int64_t>(size_of(view.dtype));
  return (bytes + 63) / 64 * 64;
}

int64_t bytes_of_copy(const View& view) { return is_channels_last(view) ? 0 : bytes_of(view); }

// Large working memory, from what the backend keeps of freed blocks: the system would give pages
// that must be cleared first.
class Memory {
 public:
  explicit Memory(int64_t bytes)
      : bytes_(static_cast<size_t>(bytes)),
        data_(static_cast<char*>(bytes == 0 ? nullptr
                                            : backend_of({}).allocate(bytes_, "convolution"))) {}
  ~Memory() {
    if (data_ != nullptr) backend_of({}).deallocate(data_, bytes_);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  char* get() const { return data_; }

 private:
  size_t bytes_;
  char* data_;
};

// A primitive and the layouts that it works on.
struct Program {
  ConvolutionGeometry geometry;
  dnnl::primitive primitive;
  Desc x, w, y, scratch;
};

template <class Primitive>
Program program_of(const ConvolutionGeometry& geometry,
                   const typename Primitive::primitive_desc& made, const Desc& x, const Desc& w,
                   const Desc& y) {
  // What the library calls a reference is slower than our own columns.
  if (std::strstr(made.impl_info_str(), "ref") != nullptr) {
    throw dnnl::error(dnnl_unimplemented, "no fast form");
  }
  return {geometry, Primitive(made), x, w, y, made.scratchpad_desc()};
}

// Throws dnnl::error where the library does not do it. `w`: its layout, or any.
Program make_program(const Layouts& layouts, ConvolutionPass pass, const Convolution& c,
                     const Desc& w) {
  const ConvolutionGeometry& g = c.geometry;
  const Desc x = desc_of(layouts, channels_last(c.x, nullptr));
  const Desc y = desc_of(layouts, channels_last(c.y, nullptr));
  int64_t dilation[3], after[3];
  for (int i = 0; i < 3; ++i) {
    dilation[i] = g.dilation[i] - 1;
    after[i] =
        (g.y[i] - 1) * g.stride[i] + g.dilation[i] * (g.kernel[i] - 1) + 1 - g.x[i] - g.padding[i];
  }
  const memory::dims strides = layouts.spatial_of(g.stride),
                     dilations = layouts.spatial_of(dilation);
  const memory::dims before = layouts.spatial_of(g.padding), behind = layouts.spatial_of(after);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const auto direct = dnnl::algorithm::convolution_direct;
  const bool training = pass == ConvolutionPass::forward;
  const Desc any(w.dims(), layouts.type, memory::format_tag::any);
  const dnnl::convolution_forward::primitive_desc forward(
      {dnnl::prop_kind::forward_training, direct, x, training ? w : any, y, strides, dilations,
       before, behind},
      attributes, engine());
  switch (pass) {
    case ConvolutionPass::forward:
      return program_of<dnnl::convolution_forward>(g, forward, x, forward.weights_desc(), y);
    case ConvolutionPass::input_gradient: {
      const dnnl::convolution_backward_data::primitive_desc made(
          {direct, x, w, y, strides, dilations, before, behind}, attributes, engine(), forward);
      return program_of<dnnl::convolution_backward_data>(g, made, x, made.weights_desc(), y);
    }
    case ConvolutionPass::weight_gradient: break;
  }
  const dnnl::convolution_backward_weights::primitive_desc made(
      {direct, x, w, y, strides, dilations, before, behind}, attributes, engine(), forward);
  return program_of<dnnl::convolution_backward_weights>(g, made, x, made.diff_weights_desc(), y);
}

// The programs of a pass's parts; all use one layout of the weights.
class Programs {
 public:
  Programs(const Layouts& layouts, ConvolutionPass pass, std::vector<Convolution> parts,
           memory::data_type weight_type)
      : layouts_(layouts), pass_(pass), parts_(std::move(parts)) {
    Desc weights(weight_desc(layouts, parts_[0].w, weight_type).dims(), weight_type,
                 memory::format_tag::any);
    for (const Convolution& part : parts_) {
      const auto same = [&](const Program& program) { return program.geometry == part.geometry; };
      const auto at = std::find_if(programs_.begin(), programs_.end(), same);
      which_.push_back(static_cast<size_t>(at - programs_.begin()));
      x_bytes_ = std::max(x_bytes_, bytes_of_copy(part.x));
      y_bytes_ = std::max(y_bytes_, bytes_of_copy(part.y));
      if (at != programs_.end()) continue;
      programs_.push_back(make_program(layouts, pass, part, weights));
      weights = programs_.back().w;
      scratch_bytes_ =
          std::max(scratch_bytes_, static_cast<int64_t>(programs_.back().scratch.get_size()));
    }
  }

  int64_t count() const { return static_cast<int64_t>(parts_.size()); }
  const Desc& weights() const { return programs_[0].w; }
  int64_t workspace_bytes() const { return x_bytes_ + y_bytes_ + scratch_bytes_; }

  // Part i, by one thread. `w` lies as weights() says.
  void run(int64_t i, void* w, char* workspace) const {
    const Convolution& part = parts_[static_cast<size_t>(i)];
    const Program& program = programs_[which_[static_cast<size_t>(i)]];
    const View x = read(part.x, pass_ != ConvolutionPass::input_gradient, workspace);
    const View y = read(part.y, pass_ != ConvolutionPass::forward, workspace + x_bytes_);
    char* scratch = workspace + x_bytes_ + y_bytes_;
    static constexpr int kArguments[3][3] = {
        {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DST},
        {DNNL_ARG_DIFF_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_DST},
        {DNNL_ARG_SRC, DNNL_ARG_DIFF_WEIGHTS, DNNL_ARG_DIFF_DST}};
    const int* arguments = kArguments[static_cast<int>(pass_)];
    dnnl::stream stream(engine());
    program.primitive.execute(stream,
                              {{arguments[0], memory(program.x, engine(), x.data)},
                               {arguments[1], memory(program.w, engine(), w)},
                               {arguments[2], memory(program.y, engine(), y.data)},
                               {DNNL_ARG_SCRATCHPAD, memory(program.scratch, engine(), scratch)}});
    stream.wait();
    if (pass_ == ConvolutionPass::forward) write_back(y, part.y);
    if (pass_ == ConvolutionPass::input_gradient) write_back(x, part.x);
  }

 private:
  // A part's window channels-last: itself, or a copy (with its values if they are `wanted`).
  View read(const View& original, bool wanted, char* memory) const {
    if (is_channels_last(original)) return original;
    const View copy = channels_last(original, memory);
    if (wanted) {
      reorder(desc_of(layouts_, original), original.data, desc_of(layouts_, copy), copy.data);
    }
    return copy;
  }
  void write_back(const View& copy, const View& original) const {
    if (copy.data == original.data) return;
    reorder(desc_of(layouts_, copy), copy.data, desc_of(layouts_, original), original.data);
  }

  const Layouts& layouts_;
  ConvolutionPass pass_;
  std::vector<Convolution> parts_;
  std::vector<Program> programs_;
  std::vector<size_t> which_;  // program of each part
  int64_t x_bytes_ = 0, y_bytes_ = 0, scratch_bytes_ = 0;
};

// y or the gradient of x: every part writes its own window.
void make_activations(const Layouts& layouts, ConvolutionPass pass, const Convolution& c) {
  const ConvolutionGeometry& g = c.geometry;
  const int64_t wanted =
      std::clamp<int64_t>(g.multiplications() / kPartWork, 1, std::max(g.batch, kMostParts));
  const Programs programs(layouts, pass, parts_of(pass, c, layouts.row(), wanted), layouts.type);
  const Desc given = weight_desc(layouts, c.w, layouts.type);
  const bool direct = given == programs.weights();
  const Memory packed(direct ? 0 : static_cast<int64_t>(programs.weights().get_size()));
  void* w = direct ? c.w.data : packed.get();
  if (!direct) reorder_in_parallel(given, c.w.data, programs.weights(), w);
  parallel_for(programs.count(), 1, [&](int64_t begin, int64_t end) {
    const OneThread one_thread;
    const Scratch<char> workspace(programs.workspace_bytes());
    for (int64_t i = begin; i < end; ++i) programs.run(i, w, workspace.get());
  });
}

// Copies slices of channels, each dense and channels-last in `memory`, one after the other.
std::vector<View> slices_of(const Layouts& layouts, const View& from, int64_t channels,
                            char* memory) {
  std::vector<View> sources, targets;
  for (int64_t first = 0; first < from.shape[1]; first += channels) {
    sources.push_back(cut(from, 1, first, std::min(channels, from.shape[1] - first)));
    targets.push_back(channels_last(sources.back(), memory));
    memory += bytes_of(targets.back());
  }
  const int64_t images = from.shape[0];
  parallel_for(static_cast<int64_t>(sources.size()) * images, 1, [&](int64_t begin, int64_t end) {
    const OneThread one_thread;
    for (int64_t i = begin; i < end; ++i) {
      const View source = cut(sources[static_cast<size_t>(i / images)], 0, i % images, 1);
      const View target = cut(targets[static_cast<size_t>(i / images)], 0, i % images, 1);
      reorder(desc_of(layouts, source), source.data, desc_of(layouts, target), target.data);
    }
  });
  return targets;
}

// dw = sums + beta * dw, from the library's layout. The parts' sums are added in their order.
void finish_weights(const Loops& loops, const Layouts& layouts, const Desc& desc, char* sums,
                    int64_t parts, const View& dw, double beta) {
  const int64_t bytes = static_cast<int64_t>(desc.get_size());
  const int64_t elements = bytes / static_cast<int64_t>(sizeof(float));
  float* total = reinterpret_cast<float*>(sums);
  if (parts > 1) {
    parallel_for(elements, 16 * 1024, [&](int64_t begin, int64_t end) {
      for (int64_t part = 1; part < parts; ++part) {
        loops.f32.rows.add(total + part * elements + begin, total + begin, end - begin);
      }
    });
  }
  if (beta == 0 && dw.dtype == DType::f32) {
    const Desc wanted = weight_desc(layouts, dw, memory::data_type::f32);
    return reorder_in_parallel(desc, total, wanted, dw.data);
  }
  const Copy<float> plain(loops, dw);
  const Desc wanted = weight_desc(layouts, plain.view(), memory::data_type::f32);
  const Scratch<float> sum(plain.view().elements());
  reorder_in_parallel(desc, total, wanted, sum.get());
  View result = plain.view();
  result.data = sum.get();
  scale_add(loops, 1, result, beta, plain.view());
  plain.write_back();
}

// Large weights have small activations: their gradient is cut by output channels, where nothing
// has to be added up, for as long as that makes slices of a good width; the rest by images.
struct WeightCut {
  int64_t sums;      // parts whose results are added up
  int64_t channels;  // of a slice
};

WeightCut cut_of(const ConvolutionGeometry& g) {
  const int64_t useful = std::clamp<int64_t>(g.multiplications() / kPartWork, 1, kMostSums);
  const int64_t sums = std::clamp<int64_t>(g.batch * g.pixels() / kSumPixels, 1, useful);
  if (g.groups > 1) return {sums, g.out};
  const int64_t slices = std::clamp<int64_t>(g.out / kSliceChannels, 1, useful / sums);
  const int64_t even = (g.out / slices + kSliceChannels - 1) / kSliceChannels * kSliceChannels;
  return {sums, slices == 1 ? g.out : even};
}

// A run of output channels of a weight gradient.
struct WeightSlice {
  Programs programs;
  View dw;
  int64_t start;  // of its sums, in bytes
  int64_t bytes;  // of one sum
};

// All slices have the same number of parts.
std::vector<WeightSlice> weight_slices(const Layouts& layouts, const Convolution& c,
                                       const WeightCut& cut, const View& x,
                                       const std::vector<View>& ys) {
  constexpr auto kPass = ConvolutionPass::weight_gradient;
  std::vector<WeightSlice> slices;
  int64_t channel = 0, start = 0;
  for (const View& y : ys) {
    Convolution slice = c;
    slice.x = x;
    slice.y = y;
    slice.w = lockstep::cpu::cut(c.w, 0, channel, y.shape[1]);
    slice.geometry.out = y.shape[1];
    channel += y.shape[1];
    Programs programs(layouts, kPass, parts_of(kPass, slice, layouts.row(), cut.sums),
                      memory::data_type::f32);
    const auto bytes = static_cast<int64_t>(programs.weights().get_size());
    slices.push_back({std::move(programs), slice.w, start, bytes});
    start += slices.back().programs.count() * bytes;
  }
  return slices;
}

void make_weight_gradient(const Loops& loops, const Layouts& layouts, const Convolution& c) {
  const WeightCut plan = cut_of(c.geometry);
  const bool copies_x = !is_channels_last(c.x);
  const bool copies_y = plan.channels < c.geometry.out || !is_channels_last(c.y);
  const Memory x_memory(copies_x ? bytes_of(c.x) : 0);
  const Memory y_memory(copies_y ? bytes_of(c.y) + 64 * c.geometry.out : 0);
  const View x = copies_x ? slices_of(layouts, c.x, c.geometry.in, x_memory.get())[0] : c.x;
  const std::vector<View> ys =
      copies_y ? slices_of(layouts, c.y, plan.channels, y_memory.get()) : std::vector<View>{c.y};
  const std::vector<WeightSlice> slices = weight_slices(layouts, c, plan, x, ys);
  const int64_t parts = slices[0].programs.count();
  const Memory sums(slices.back().start + parts * slices.back().bytes);
  parallel_for(static_cast<int64_t>(slices.size()) * parts, 1, [&](int64_t begin, int64_t end) {
    const OneThread one_thread;
    for (int64_t i = begin; i < end; ++i) {
      const WeightSlice& slice = slices[static_cast<size_t>(i / parts)];
      const Scratch<char> workspace(slice.programs.workspace_bytes());
      slice.programs.run(i % parts, sums.get() + slice.start + i % parts * slice.bytes,
                         workspace.get());
    }
  });
  for (const WeightSlice& slice : slices) {
    finish_weights(loops, layouts, slice.programs.weights(), sums.get() + slice.start, parts,
                   slice.dw, c.beta);
  }
}

// dx = the gradient + beta * dx: the library does not add to what is there.
void add_input_gradient(const Loops& loops, const Layouts& layouts, const Convolution& c) {
  const Memory memory(bytes_of(c.x));
  Convolution aside = c;
  aside.x = channels_last(c.x, memory.get());
  make_activations(layouts, ConvolutionPass::input_gradient, aside);
  scale_add(loops, 1, aside.x, c.beta, c.x);
}

}  // namespace

bool convolve_by_library(const Loops& loops, ConvolutionPass pass, const Convolution& c) {
  if (c.x.dtype == DType::bf16 && !multiplies_bf16()) return false;
  const ConvolutionGeometry& g = c.geometry;
  const Layouts layouts{g.x[0] == 1 && g.y[0] == 1 && g.kernel[0] == 1 && g.padding[0] == 0,
                        g.groups, type_of(c.x.dtype)};
  try {
    const OneThread one_thread;
    if (pass == ConvolutionPass::weight_gradient) {
      make_weight_gradient(loops, layouts, c);
    } else if (c.beta != 0) {
      add_input_gradient(loops, layouts, c);
    } else {
      make_activations(layouts, pass, c);
    }
  } catch (const dnnl::error&) {
    return false;
  }
  return true;
}

}  // namespace lockstep::cpu
