#include "lockstep/runtime/cuda/vendor/dnn_convolution.h"

#include <algorithm>
#include <optional>

#include "lockstep/runtime/cuda/kernels/elementwise.h"

namespace lockstep::cuda {
namespace {

enum Uid : int64_t { kX = 1, kW, kY };

// With an outer spatial dimension of size 1: cuDNN knows none of one.
View with_two_spatial(const View& view) {
  if (view.rank != 3) return view;
  View result = view;
  result.rank = 4;
  result.shape[3] = view.shape[2];
  result.strides[3] = view.strides[2];
  result.shape[2] = 1;
  result.strides[2] = view.shape[2] * view.strides[2];
  return result;
}

// The strides of a dense view whose channels lie innermost, or right inside the batch.
View dense(const View& like, bool channels_last) {
  View result = like;
  int64_t stride = 1;
  const auto take = [&](int dim) {
    result.strides[dim] = stride;
    stride *= like.shape[dim];
  };
  if (channels_last) take(1);
  for (int i = like.rank - 1; i >= 2; --i) take(i);
  if (!channels_last) take(1);
  take(0);
  return result;
}

bool is_dense(const View& view, bool channels_last) {
  const View expected = dense(view, channels_last);
  for (int i = 0; i < view.rank; ++i) {
    if (view.shape[i] != 1 && view.strides[i] != expected.strides[i]) return false;
  }
  return true;
}

// An operand as cuDNN gets it: itself, or a dense copy.
class DenseOperand {
 public:
  DenseOperand(const View& original, bool channels_last, bool as_it_is, bool read, Queue& queue)
      : original_(original), view_(dense(original, channels_last)), queue_(queue) {
    if (as_it_is && is_dense(original, channels_last) && is_on_sixteen_bytes(original)) return;
    copy_.emplace(queue, static_cast<size_t>(original.elements()) * size_of(original.dtype));
    view_.data = copy_->as<void>();
    if (read) copy(original_, view_, queue_);
  }

  const View& view() const { return view_; }

  // To the original, which becomes this + beta * what it was.
  void write_back(double beta) const {
    if (!copy_) return;
    beta == 0 ? copy(view_, original_, queue_) : scale_add(1, view_, beta, original_, queue_);
  }

 private:
  View original_, view_;
  Queue& queue_;
  std::optional<Scratch> copy_;
};

struct Windows {
  std::vector<int64_t> before, behind, stride, dilation;
};

// Nothing where the windows end before the images do by a whole step: cuDNN then has another size
// of output.
std::optional<Windows> windows_of(const View& x, const View& w, const View& y,
                                  const WindowOptions& options) {
  Windows result;
  const int added = x.rank - 2 - options.spatial;
  for (int i = 0; i < x.rank - 2; ++i) {
    const int64_t stride = i < added ? 1 : options.stride[i - added];
    const int64_t before = i < added ? 0 : options.padding[i - added];
    const int64_t dilation = i < added ? 1 : options.dilation[i - added];
    const int64_t reach = (y.shape[2 + i] - 1) * stride + dilation * (w.shape[2 + i] - 1) + 1;
    // Any of `stride` paddings behind gives this size.
    const int64_t least = reach - x.shape[2 + i] - before;
    const int64_t most = least + stride - 1;
    if (most < 0) return std::nullopt;
    const bool even = least <= before && before <= most;
    result.before.push_back(before);
    result.behind.push_back(even ? before : std::max<int64_t>(least, 0));
    result.stride.push_back(stride);
    result.dilation.push_back(dilation);
  }
  return result;
}

template <class Attributes>
Attributes attributes_of(const Windows& windows) {
  return Attributes()
      .set_pre_padding(windows.before)
      .set_post_padding(windows.behind)
      .set_stride(windows.stride)
      .set_dilation(windows.dilation);
}

void place(const Tensor& tensor, const View& view, int64_t uid) {
  tensor->set_output(true)
      .set_uid(uid)
      .set_dim(shape_of(view))
      .set_stride(plan_strides(view))
      .set_data_type(dnn_type_of(view.dtype));
}

// What algorithms must not do that sum in f32, in one order, about as exactly as one product after
// the other.
Traits barred_traits(DType dtype) {
  using Note = fe::NumericalNote_t;
  Traits traits{
      Note::NONDETERMINISTIC,  Note::REDUCED_PRECISION_REDUCTION, Note::FFT,
      Note::WINOGRAD_TILE_4x4, Note::WINOGRAD_TILE_6x6,           Note::WINOGRAD_TILE_13x13};
  if (dtype == DType::f32) {
    traits.push_back(Note::TENSOR_CORE);  // TF32
    traits.push_back(Note::DOWN_CONVERT_INPUTS);
  }
  return traits;
}

void make_graph(DnnGraph& graph, ConvolutionPass pass, const Windows& windows, const View& x,
                const View& w, const View& y) {
  graph.set_io_data_type(dnn_type_of(x.dtype))
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  switch (pass) {
    case ConvolutionPass::forward:
      return place(graph.conv_fprop(tensor_of(graph, x, kX), tensor_of(graph, w, kW),
                                    attributes_of<fe::graph::Conv_fprop_attributes>(windows)),
                   y, kY);
    case ConvolutionPass::input_gradient:
      return place(graph.conv_dgrad(tensor_of(graph, y, kY), tensor_of(graph, w, kW),
                                    attributes_of<fe::graph::Conv_dgrad_attributes>(windows)),
                   x, kX);
    case ConvolutionPass::weight_gradient:
      return place(graph.conv_wgrad(tensor_of(graph, y, kY), tensor_of(graph, x, kX),
                                    attributes_of<fe::graph::Conv_wgrad_attributes>(windows)),
                   w, kW);
  }
}

}  // namespace

bool DnnConvolution::run(ConvolutionPass pass, const View& x_given, const View& w_given,
                         const View& y_given, const WindowOptions& options, double beta,
                         Queue& queue) {
  if (x_given.dtype == DType::f64) return false;
  const View x = with_two_spatial(x_given), w = with_two_spatial(w_given),
             y = with_two_spatial(y_given);
  const std::optional<Windows> windows = windows_of(x, w, y, options);
  if (!windows) return false;
  const bool channels_last =
      (is_dense(x, true) && is_dense(y, true)) || !is_dense(x, false) || !is_dense(y, false);
  const View dense_views[] = {dense(x, channels_last), dense(w, channels_last),
                              dense(y, channels_last)};
  const auto make = [&](DnnGraph& graph) {
    make_graph(graph, pass, *windows, dense_views[0], dense_views[1], dense_views[2]);
    return barred_traits(x.dtype);
  };
  PlanKey key{static_cast<int64_t>(pass)};
  for (const View& view : dense_views) append(key, view);
  for (const auto* numbers :
       {&windows->before, &windows->behind, &windows->stride, &windows->dilation}) {
    key.insert(key.end(), numbers->begin(), numbers->end());
  }
  static constexpr const char* kNames[] = {"convolution", "convolution's input gradient",
                                           "convolution's weight gradient"};
  const char* name = kNames[static_cast<int>(pass)];
  DnnPlans::Plan* plan = plans_.find(name, key, make, queue);
  if (plan == nullptr) return false;

  const bool adds = beta != 0, to_x = pass == ConvolutionPass::input_gradient,
             to_w = pass == ConvolutionPass::weight_gradient;
  const DenseOperand x_operand(x, channels_last, !(adds && to_x), !to_x, queue);
  const DenseOperand w_operand(w, channels_last, !(adds && to_w), !to_w, queue);
  const DenseOperand y_operand(y, channels_last, true, pass != ConvolutionPass::forward, queue);
  Pointers pointers{
      {kX, x_operand.view().data}, {kW, w_operand.view().data}, {kY, y_operand.view().data}};
  plans_.execute(name, *plan, pointers, queue);
  switch (pass) {
    case ConvolutionPass::forward: y_operand.write_back(0); break;
    case ConvolutionPass::input_gradient: x_operand.write_back(beta); break;
    case ConvolutionPass::weight_gradient: w_operand.write_back(beta); break;
  }
  return true;
}

}  // namespace lockstep::cuda
