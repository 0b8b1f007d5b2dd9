#pragma once

#include <cudnn_frontend.h>

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "lockstep/runtime/cuda/plan_cache.h"
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

using DnnGraph = fe::graph::Graph;
using Tensor = std::shared_ptr<fe::graph::Tensor_attributes>;

using Traits = std::vector<fe::NumericalNote_t>;

// Where a graph's operands lie, by their uid.
using Pointers = std::unordered_map<int64_t, void*>;

// Plans of graphs by what they depend on. One thread at a time, as the handle.
class DnnPlans {
 public:
  explicit DnnPlans(DnnHandle& handle) : handle_(handle) {}

  struct Plan {
    std::unique_ptr<DnnGraph> graph;
    int64_t workspace_bytes = 0;
    bool captured = false;
  };

  // That of `key`, until the next call; null: cuDNN has none. Where there is none yet, of the graph
  // that `make` fills, by an algorithm that has none of the traits that `make` returns. `what` is
  // for the log.
  template <class Make>
  Plan* find(const char* what, const PlanKey& key, const Make& make, Queue& queue) {
    const auto make_plan = [&] {
      auto graph = std::make_unique<DnnGraph>();
      const Traits barred = make(*graph);
      return plan(what, std::move(graph), barred, queue);
    };
    return plans_.find(
        key, make_plan, [] { return device_is_short(); }, [&] { make_room(queue); });
  }
  void execute(const char* what, Plan& plan, Pointers& pointers, Queue& queue);

 private:
  std::unique_ptr<Plan> plan(const char* what, std::unique_ptr<DnnGraph> graph,
                             const Traits& barred, Queue& queue);
  // Whether the device has too little memory left for code and contexts of a plan.
  static bool device_is_short();
  static void make_room(Queue& queue);

  DnnHandle& handle_;
  PlanCache<Plan> plans_;
};

// Of a floating dtype that cuDNN computes with here.
fe::DataType_t dnn_type_of(DType dtype);

// An operand with the view's shape and plan_strides.
Tensor tensor_of(DnnGraph& graph, const View& view, int64_t uid);

std::vector<int64_t> shape_of(const View& view);

inline bool is_on_sixteen_bytes(const View& view) {
  return reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
}

}  // namespace lockstep::cuda
