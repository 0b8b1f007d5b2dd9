#pragma once

#include <cudnn_frontend.h>

#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "lockstep/runtime/cuda/queue.h"
#include "lockstep/runtime/dtype.h"
#include "lockstep/runtime/view.h"

// How cuDNN's graphs are planned, kept and run. Included by few files: cudnn_frontend compiles
// slowly.
namespace lockstep::cuda {

namespace fe = cudnn_frontend;

// Throws Error naming the call and cuDNN's reason.
void check_dnn(cudnnStatus_t status, const char* call);

// cuDNN's context of a device, made when first needed.
class DnnHandle {
 public:
  DnnHandle() = default;
  ~DnnHandle();
  DnnHandle(const DnnHandle&) = delete;
  DnnHandle& operator=(const DnnHandle&) = delete;

  // What runs with it is queued there.
  cudnnHandle_t of(Queue& queue);

 private:
  cudnnHandle_t handle_ = nullptr;
  Stream stream_ = nullptr;
};

using Graph = fe::graph::Graph;
using Tensor = std::shared_ptr<fe::graph::Tensor_attributes>;

using Traits = std::vector<fe::NumericalNote_t>;

// All that a plan depends on: a name, dtypes, shapes, strides, options.
using PlanKey = std::vector<int64_t>;

void append(PlanKey& key, const View& view);

// Where a graph's operands lie, by their uid.
using Pointers = std::unordered_map<int64_t, void*>;

// Plans of graphs by what they depend on. A plan takes from milliseconds to a second to make, a
// refusal too: both are kept.
class DnnPlans {
 public:
  explicit DnnPlans(DnnHandle& handle) : handle_(handle) {}

  struct Plan {
    std::unique_ptr<Graph> graph;  // null: cuDNN has none
    int64_t workspace_bytes = 0;
  };

  // That of `key`; where there is none yet, of the graph that `make` fills, by an algorithm that
  // has none of the traits that `make` returns. `what` is for the log.
  template <class Make>
  const Plan& find(const char* what, const PlanKey& key, const Make& make, Queue& queue) {
    auto found = plans_.find(key);
    if (found == plans_.end()) {
      auto graph = std::make_unique<Graph>();
      const Traits barred = make(*graph);
      found = plans_.emplace(key, plan(what, std::move(graph), barred, queue)).first;
    }
    return found->second;
  }
  void execute(const char* what, const Plan& plan, Pointers& pointers, Queue& queue);

 private:
  Plan plan(const char* what, std::unique_ptr<Graph> graph, const Traits& barred, Queue& queue);

  DnnHandle& handle_;
  std::map<PlanKey, Plan> plans_;
};

// Of a floating dtype that cuDNN computes with here.
fe::DataType_t dnn_type_of(DType dtype);

// An operand with the view's shape and strides. Dimensions of size 1 get a stride as if they were
// packed around what lies inside them.
Tensor tensor_of(Graph& graph, const View& view, int64_t uid);

std::vector<int64_t> shape_of(const View& view);
std::vector<int64_t> strides_of(const View& view);

inline bool is_on_sixteen_bytes(const View& view) {
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
}

}  // namespace lockstep::cuda
