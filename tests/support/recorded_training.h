#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "lockstep/nn/layers.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "support/test_data.h"

// Training runs that were recorded from PyTorch; tests/data/README.md describes them.
namespace lockstep::testing {

using Json = nlohmann::json;
using Tensors = std::map<std::string, Array>;

struct Recording {
  std::filesystem::path folder;
  Json expected;
  Tensors data;

  explicit Recording(const char* name)
      : folder(test_data(name)),
        expected(Json::parse(std::ifstream(folder / "expected.json"))),
        data(read("data")) {}
  Tensors read(const std::string& file) const {
    return read_tensors(folder / (file + ".safetensors"));
  }
  template <class T>
  T attribute(const char* name) const {
    return expected.at("attributes").at(name).get<T>();
  }
  Tensor rows(const char* name, int64_t first, int64_t count, DType dtype) const {
    const Array all = data.at(name);
    return Tensor(kernels::cast(all.narrow(0, first % all.dim(0), count), dtype));
  }
};

// Of cnn_bn.
struct Cnn : nn::Layer<Cnn> {
  nn::Conv2d conv1{3, 8, {3}, {.padding = {1}}};
  nn::BatchNorm2d bn1{8};
  nn::Conv2d conv2{8, 16, {3}, {.padding = {1}, .bias = false}};
  nn::BatchNorm2d bn2{16};
  nn::Linear fc{16, 4};
  Tensor forward(const Tensor& x) {
    const Tensor y = max_pool2d(relu(bn1(conv1(x))), {.kernel_size = {2}});
    return fc(mean(relu(bn2(conv2(y))), {2, 3}));
  }
  void visit(nn::Visitor& v) override {
    v("conv1", conv1);
    v("bn1", bn1);
    v("conv2", conv2);
    v("bn2", bn2);
    v("fc", fc);
  }
};

}  // namespace lockstep::testing
