#include "lockstep/runtime/cuda/dnn.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>
#include <mutex>
#include <string>

#include "lockstep/runtime/cuda/memory.h"
#include "lockstep/runtime/cuda/vendor/dnn_attention.h"
#include "lockstep/runtime/cuda/vendor/dnn_convolution.h"
#include "lockstep/runtime/error.h"
#include "lockstep/runtime/log.h"

namespace lockstep::cuda {

void check_dnn(cudnnStatus_t status, const char* call) {
  if (status == CUDNN_STATUS_SUCCESS) [[likely]]
    return;
  char details[256] = "";
  cudnnGetLastErrorString(details, sizeof details);
  fail({call, ": ", cudnnGetErrorString(status), ": ", details});
}

DnnHandle::~DnnHandle() {
  if (handle_ != nullptr) cudnnDestroy(handle_);
}

cudnnHandle_t DnnHandle::of(Queue& queue) {
  const Stream stream = queue.stream();
  const bool made = handle_ == nullptr;
  if (made) check_dnn(cudnnCreate(&handle_), "cudnnCreate");
  if (made || stream != stream_) {
    check_dnn(cudnnSetStream(handle_, stream), "cudnnSetStream");
    stream_ = stream;
  }
  return handle_;
}

std::vector<int64_t> shape_of(const View& view) { return {view.shape, view.shape + view.rank}; }

fe::DataType_t dnn_type_of(DType dtype) {
  switch (dtype) {
    case DType::bf16: return fe::DataType_t::BFLOAT16;
    case DType::f16: return fe::DataType_t::HALF;
    default: return fe::DataType_t::FLOAT;
  }
}

Tensor tensor_of(DnnGraph& graph, const View& view, int64_t uid) {
  return graph.tensor(fe::graph::Tensor_attributes()
                          .set_uid(uid)
                          .set_dim(shape_of(view))
                          .set_stride(plan_strides(view))
                          .set_data_type(dnn_type_of(view.dtype)));
}

std::unique_ptr<DnnPlans::Plan> DnnPlans::plan(const char* what, std::unique_ptr<DnnGraph> graph,
                                               const Traits& barred, Queue& queue) {
  const cudnnHandle_t handle = handle_.of(queue);
  int64_t workspace_bytes = 0;
  auto status = graph->build_operation_graph(handle);
  if (status.is_good()) {
    status = graph->create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK});
  }
  if (status.is_good()) status = graph->deselect_numeric_notes(barred).check_support();
  if (status.is_good()) status = graph->build_plans();
  if (status.is_good()) status = graph->get_workspace_size(workspace_bytes);
  if (status.is_good()) return std::make_unique<Plan>(Plan{std::move(graph), workspace_bytes});
  cudaGetLastError();  // where memory was short it is no error of the next call
  std::string reason = status.get_message();
  std::replace(reason.begin(), reason.end(), '\n', ' ');
  log(LogLevel::debug, {"cuDNN has no plan for ", what, ": ", reason});
  return nullptr;
}

bool DnnPlans::device_is_short() {
  constexpr size_t kEnough = size_t{512} << 20;
  size_t free = 0, total = 0;
  return cudaMemGetInfo(&free, &total) == cudaSuccess && free < kEnough;
}

void DnnPlans::make_room(Queue& queue) { queue.memory().trim(); }

void DnnPlans::execute(const char* what, Plan& plan, Pointers& pointers, Queue& queue) {
  const cudnnHandle_t handle = handle_.of(queue);
  auto capture = cudaStreamCaptureStatusNone;
  if (cudaStreamIsCapturing(queue.stream(), &capture) == cudaSuccess) {
    plan.captured |= capture != cudaStreamCaptureStatusNone;
  }
  const Scratch workspace(queue, static_cast<size_t>(plan.workspace_bytes));
  auto status = plan.graph->execute(handle, pointers, workspace.as<void>());
  if (status.is_bad()) fail({"cuDNN's ", what, ": ", status.get_message()});
}

namespace {

// Names of operands within a graph.
enum Uid : int64_t { kQ = 1, kK, kV, kOut, kStatistics, kDout, kDq, kDk, kDv };

// The workspace of the deterministic gradient is a matrix of scores in 16 bits. It is kept below
// this by taking a few images, or a few heads, at a time.
constexpr int64_t kScoreBytes = int64_t{1} << 30;

// What cuDNN's kernels take: rows of features on 16-byte boundaries, no two in one place.
bool fits(const View& view) {
  if (view.shape[3] % 8 != 0 || !is_on_sixteen_bytes(view)) return false;
  for (int i = 0; i < 3; ++i) {
    if (view.shape[i] != 1 && (view.strides[i] % 8 != 0 || view.strides[i] <= 0)) return false;
  }
  return true;
}

bool all_fit(std::initializer_list<const View*> views, const AttentionOptions& options) {
  // Whether a bias hides all keys of a query, cuDNN does not ask.
  if (options.bias.data != nullptr) return false;
  return std::all_of(views.begin(), views.end(), [](const View* view) {
    return (view->dtype == DType::bf16 || view->dtype == DType::f16) && fits(*view);
  });
}

// [batch, heads, queries] as cuDNN calls it: a feature of one.
View with_feature(const View& statistics) {
  View result = statistics;
  result.rank = 4;
  result.shape[3] = 1;
  result.strides[3] = 1;
  result.strides[2] = 1;
  result.strides[1] = statistics.shape[2];
  result.strides[0] = statistics.shape[1] * statistics.shape[2];
  return result;
}

PlanKey key_of(int64_t pass, const AttentionOptions& options,
               std::initializer_list<const View*> views) {
  PlanKey key{pass, options.causal, std::bit_cast<int64_t>(options.scale)};
  for (const View* view : views) append(key, *view);
  return key;
}

void set_types(DnnGraph& graph, DType dtype) {
  graph.set_io_data_type(dnn_type_of(dtype))
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
}

void place(const Tensor& tensor, const View& view, int64_t uid) {
  tensor->set_output(true)
      .set_uid(uid)
      .set_dim(shape_of(view))
      .set_stride(plan_strides(view))
      .set_data_type(dnn_type_of(view.dtype));
}

// Entries [first, first + count) of a dimension.
View part_of(const View& view, int dim, int64_t first, int64_t count) {
  View result = view;
  const int64_t offset = first * view.strides[dim] * static_cast<int64_t>(size_of(view.dtype));
  result.data = view.as<char>() + offset;
  result.shape[dim] = count;
  return result;
}

int64_t largest_divisor(int64_t number, int64_t most) {
  int64_t divisor = std::clamp<int64_t>(most, 1, number);
  while (number % divisor != 0) --divisor;
  return divisor;
}

}  // namespace

bool DnnAttention::forward(const View& q, const View& k, const View& v,
                           const AttentionOptions& options, const View& out,
                           const View& log_sum_exp, Queue& queue) {
  if (!all_fit({&q, &k, &v, &out}, options)) return false;
  const View statistics = with_feature(log_sum_exp);
  const auto make = [&](DnnGraph& graph) {
    set_types(graph, q.dtype);
    auto attributes = fe::graph::SDPA_attributes()
                          .set_name("attention")
                          .set_generate_stats(true)
                          .set_attn_scale(static_cast<float>(options.scale));
    if (options.causal) {
      attributes.set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
          .set_diagonal_band_right_bound(0);
    }
    const auto [result, saved] = graph.sdpa(tensor_of(graph, q, kQ), tensor_of(graph, k, kK),
                                            tensor_of(graph, v, kV), attributes);
    place(result, out, kOut);
    place(saved, statistics, kStatistics);
    return Traits{};
  };
  Pointers pointers{
      {kQ, q.data}, {kK, k.data}, {kV, v.data}, {kOut, out.data}, {kStatistics, statistics.data}};
  const PlanKey key = key_of(0, options, {&q, &k, &v, &out});
  DnnPlans::Plan* plan = plans_.find("attention", key, make, queue);
  if (plan == nullptr) return false;
  plans_.execute("attention", *plan, pointers, queue);
  return true;
}

bool DnnAttention::backward(const View& dout, const View& q, const View& k, const View& v,
                            const View& out, const View& log_sum_exp,
                            const AttentionOptions& options, const View& dq, const View& dk,
                            const View& dv, Queue& queue) {
  if (!all_fit({&dout, &q, &k, &v, &out, &dq, &dk, &dv}, options)) return false;
  const auto padded = [](int64_t size) { return (size + 127) / 128 * 128; };
  const int64_t head_bytes = 2 * padded(q.shape[2]) * padded(k.shape[2]);
  const int64_t heads = q.shape[1] * head_bytes;
  const int dim = heads <= kScoreBytes ? 0 : 1;
  if (dim == 1 && q.shape[0] > 1) {  // an image at a time, and its heads then
    for (int64_t i = 0; i < q.shape[0]; ++i) {
      const auto one = [&](const View& view) { return part_of(view, 0, i, 1); };
      const bool done = backward(one(dout), one(q), one(k), one(v), one(out), one(log_sum_exp),
                                 options, one(dq), one(dk), one(dv), queue);
      if (!done) return false;
    }
    return true;
  }
  const int64_t step = largest_divisor(q.shape[dim], kScoreBytes / (dim == 0 ? heads : head_bytes));
  for (int64_t first = 0; first < q.shape[dim]; first += step) {
    const auto part = [&](const View& view) { return part_of(view, dim, first, step); };
    const View here[] = {part(q),    part(k),  part(v),  part(out), with_feature(part(log_sum_exp)),
                         part(dout), part(dq), part(dk), part(dv)};
    const auto make = [&](DnnGraph& graph) {
      set_types(graph, q.dtype);
      auto attributes = fe::graph::SDPA_backward_attributes()
                            .set_name("attention_backward")
                            .set_attn_scale(static_cast<float>(options.scale))
                            .set_deterministic_algorithm(true);
      if (options.causal) {
        attributes.set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
            .set_diagonal_band_right_bound(0);
      }
      Tensor in[6];
      for (int i = 0; i < 6; ++i) in[i] = tensor_of(graph, here[i], kQ + i);
      const auto gradients =
          graph.sdpa_backward(in[0], in[1], in[2], in[3], in[5], in[4], attributes);
      for (int i = 0; i < 3; ++i) place(gradients[static_cast<size_t>(i)], here[6 + i], kDq + i);
      return Traits{};
    };
    PlanKey key = key_of(1, options, {});
    Pointers pointers;
    for (int i = 0; i < 9; ++i) {
      append(key, here[i]);
      pointers[kQ + i] = here[i].data;
    }
    // Parts have one plan: where the first has none, nothing has been queued.
    DnnPlans::Plan* plan = plans_.find("attention's gradient", key, make, queue);
    if (plan == nullptr) return false;
    plans_.execute("attention's gradient", *plan, pointers, queue);
  }
  return true;
}

namespace {

// One call at a time: cuDNN's context is for one thread, and so are the plans.
class CudnnDnn final : public Dnn {
 public:
  CudnnDnn() : attention_(handle_), convolution_(handle_) {}

  bool convolution(const View& x, const View& w, const WindowOptions& options, const View& y,
                   Queue& queue) override {
    const std::lock_guard lock(mutex_);
    return convolution_.run(ConvolutionPass::forward, x, w, y, options, 0, queue);
  }
  bool convolution_input_gradient(const View& dy, const View& w, const WindowOptions& options,
                                  const View& dx, double beta, Queue& queue) override {
    const std::lock_guard lock(mutex_);
    return convolution_.run(ConvolutionPass::input_gradient, dx, w, dy, options, beta, queue);
  }
  bool convolution_weight_gradient(const View& dy, const View& x, const WindowOptions& options,
                                   const View& dw, double beta, Queue& queue) override {
    const std::lock_guard lock(mutex_);
    return convolution_.run(ConvolutionPass::weight_gradient, x, dw, dy, options, beta, queue);
  }
  bool attention(const View& q, const View& k, const View& v, const AttentionOptions& options,
                 const View& out, const View& log_sum_exp, Queue& queue) override {
    const std::lock_guard lock(mutex_);
    return attention_.forward(q, k, v, options, out, log_sum_exp, queue);
  }
  bool attention_backward(const View& dout, const View& q, const View& k, const View& v,
                          const View& out, const View& log_sum_exp, const AttentionOptions& options,
                          const View& dq, const View& dk, const View& dv, Queue& queue) override {
    const std::lock_guard lock(mutex_);
    return attention_.backward(dout, q, k, v, out, log_sum_exp, options, dq, dk, dv, queue);
  }

 private:
  std::mutex mutex_;  // guards all below
  DnnHandle handle_;
  DnnAttention attention_;
  DnnConvolution convolution_;
};

}  // namespace

std::unique_ptr<Dnn> make_dnn(int) { return std::make_unique<CudnnDnn>(); }

}  // namespace lockstep::cuda
