#pragma once

#include <string>
#include <vector>

#include "lockstep/runtime/cuda/blas.h"
#include "lockstep/runtime/view.h"

// What the simulated device's stand-ins for cuDNN and cuBLASLt are told, and tell.
namespace lockstep::simulated {

struct DnnCall {
  std::string name;         // of Dnn's method
  std::vector<View> views;  // its operands and results in order
  double beta = 0;
};

struct DnnRecorder {
  bool accepts = false;  // else it refuses, and our own kernels compute
  std::vector<DnnCall> calls;
};

// Of a device, which has been opened: what the library's function of this name is.
inline constexpr const char* kDnnRecorderFunction = "lockstep_simulated_dnn_recorder";
using DnnRecorderFunction = DnnRecorder* (*)(int device);

struct BlasRecorder {
  bool records = false;  // then it computes nothing
  bool refuses = false;  // what has an epilogue
  int tiling = -1;       // of our own kernel, which computes what it has; none
  int own_products = 0;  // that it has computed
  std::vector<cuda::Product> products;
};

// What was in the graph that a thread launched last: the type of each kernel, product and copy.
struct GraphRecorder {
  std::vector<std::string> work;
};

// Of the calling thread.
inline constexpr const char* kGraphRecorderFunction = "lockstep_simulated_graph_recorder";
using GraphRecorderFunction = GraphRecorder* (*)();

inline constexpr const char* kBlasRecorderFunction = "lockstep_simulated_blas_recorder";
using BlasRecorderFunction = BlasRecorder* (*)();

}  // namespace lockstep::simulated
