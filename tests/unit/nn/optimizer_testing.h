#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lockstep/nn/optim.h"
#include "lockstep/runtime/ops/elementwise.h"
#include "support/gradient_check.h"

namespace lockstep::optim {

using testing::random_array;

// Matrices and a vector, side by side in one flat array, as data parallelism lays them out, or each
// alone. Initial values are random ones.
struct Fixture {
  explicit Fixture(bool flat, DType dtype = DType::f64,
                   std::vector<Shape> shapes = {Shape{2, 3}, Shape{3}, Shape{2, 2}}) {
    const Array values = Array::zeros({256}, dtype), gradients = Array::zeros({256}, dtype);
    const int64_t boundary = 64 / static_cast<int64_t>(size_of(dtype));
    int64_t offset = 0;
    for (const Shape& shape : shapes) {
      nn::Parameter parameter(shape, nn::Initializer::zeros());
      const auto window = [&](const Array& whole) {
        return flat ? whole.narrow(0, offset, shape.elements()).reshape(shape)
                    : Array::zeros(shape, dtype);
      };
      parameter.seat(window(values));
      write(random_array(shape, 10 + parameters.size()), parameter.tensor().value());
      parameter.leaf().seat_gradient(window(gradients));
      parameters.push_back(parameter);
      offset += (shape.elements() + boundary - 1) / boundary * boundary;
    }
  }
  static void write(const Array& from, const Array& to) {
    kernels::copy_into(kernels::cast(from, to.dtype()), to);
  }
  void give_gradient(size_t i, uint64_t seed) {
    write(random_array(parameters[i].shape(), seed), parameters[i].leaf().gradient());
    parameters[i].leaf().set_has_gradient(true);
  }
  void give_gradients(int step) {
    for (size_t i = 0; i < parameters.size(); ++i) give_gradient(i, 100 * step + i);
  }
  std::vector<double> values(size_t i) const { return parameters[i].tensor().to_vector<double>(); }
  std::vector<std::vector<double>> all_values() const {
    std::vector<std::vector<double>> result;
    for (size_t i = 0; i < parameters.size(); ++i) result.push_back(values(i));
    return result;
  }
  std::vector<nn::Parameter> parameters;
};

// Every optimizer whose step() takes no closure, with every kind of state that it can have.
struct OptimizerCase {
  const char* name;
  std::function<std::unique_ptr<Optimizer>(std::vector<nn::Parameter>)> make;
  bool matrices_only = false;

  std::vector<Shape> shapes() const {
    return matrices_only ? std::vector<Shape>{{2, 3}, {4, 2}}
                         : std::vector<Shape>{{2, 3}, {3}, {}, {0}, {2, 2}};
  }
};

template <class T>
OptimizerCase optimizer_case(const char* name, typename T::Options options,
                             bool matrices_only = false) {
  return {name,
          [options](std::vector<nn::Parameter> parameters) {
            return std::make_unique<T>(std::move(parameters), options);
          },
          matrices_only};
}

inline std::vector<OptimizerCase> all_optimizers() {
  return {
      optimizer_case<SGD>("sgd", {.learning_rate = 0.05}),
      optimizer_case<SGD>("momentum", {.learning_rate = 0.05, .momentum = 0.8}),
      optimizer_case<Adam>("adam", {.learning_rate = 0.05}),
      optimizer_case<AdamW>("amsgrad", {.learning_rate = 0.05, .amsgrad = true}),
      optimizer_case<NAdam>("nadam", {.learning_rate = 0.05}),
      optimizer_case<RAdam>("radam", {.learning_rate = 0.05}),
      optimizer_case<Adagrad>("adagrad", {.learning_rate = 0.2, .initial_accumulator_value = 0.1}),
      optimizer_case<Adadelta>("adadelta", {.learning_rate = 20}),
      optimizer_case<RMSprop>(
          "rmsprop", {.learning_rate = 0.01, .alpha = 0.9, .momentum = 0.5, .centered = true}),
      optimizer_case<Lion>("lion", {.learning_rate = 0.02}),
      optimizer_case<Lamb>("lamb", {.learning_rate = 0.05}),
      optimizer_case<Muon>("muon", {.learning_rate = 0.02}, true),
  };
}

}  // namespace lockstep::optim
