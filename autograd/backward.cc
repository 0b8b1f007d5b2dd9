#include "lockstep/autograd/engine.h"
#include "lockstep/autograd/tensor.h"

namespace lockstep {
namespace {

Tensor one_like(const Tensor& x) { return Array::full(x.shape(), 1, x.dtype(), x.device()); }

}  // namespace

void backward(std::span<const Tensor> tensors, std::span<const Tensor> gradients,
              BackwardOptions options) {
  LOCKSTEP_CHECK(!tensors.empty(), "backward: no tensors given");
  LOCKSTEP_CHECK(gradients.empty() || gradients.size() == tensors.size(),
                 "backward: ", gradients.size(), " gradients for ", tensors.size(), " tensors");
  for (const Tensor& tensor : tensors) {
    LOCKSTEP_CHECK(tensor.requires_grad(),
                   "backward() of a constant: nothing it was computed from requires "
                   "a gradient, or it was computed under NoGrad");
    LOCKSTEP_CHECK(!gradients.empty() || tensor.elements() == 1, "backward() of a tensor of shape ",
                   tensor.shape(), " needs a gradient: only a single element has the gradient 1");
  }
  Engine engine(tensors, {}, {.retain_graph = options.retain_graph});
  for (size_t i = 0; i < tensors.size(); ++i) {
    engine.seed(tensors[i], gradients.empty() ? one_like(tensors[i]) : gradients[i]);
  }
  engine.run();
}

void Tensor::backward(BackwardOptions options) const { lockstep::backward({this, 1}, {}, options); }

void Tensor::backward(const Tensor& gradient, BackwardOptions options) const {
  lockstep::backward({this, 1}, {&gradient, 1}, options);
}

std::vector<Tensor> grad(std::span<const Tensor> outputs, std::span<const Tensor> inputs,
                         std::span<const Tensor> seeds, GradOptions options) {
  LOCKSTEP_CHECK(seeds.empty() || seeds.size() == outputs.size(), "grad: ", seeds.size(),
                 " seeds for ", outputs.size(), " outputs");
  for (size_t i = 0; i < inputs.size(); ++i) {
    LOCKSTEP_CHECK(inputs[i].requires_grad(), "grad: input ", i, " does not require a gradient");
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    LOCKSTEP_CHECK(outputs[i].requires_grad(), "grad: output ", i, " is a constant");
    LOCKSTEP_CHECK(!seeds.empty() || outputs[i].elements() == 1, "grad: output ", i, " of shape ",
                   outputs[i].shape(), " needs a seed");
  }
  Engine engine(outputs, inputs,
                {.create_graph = options.create_graph,
                 .retain_graph = options.retain_graph,
                 .accumulate = false});
  for (size_t i = 0; i < outputs.size(); ++i) {
    engine.seed(outputs[i], seeds.empty() ? one_like(outputs[i]) : seeds[i]);
  }
  engine.run();
  std::vector<Tensor> gradients;
  for (size_t i = 0; i < inputs.size(); ++i) {
    gradients.push_back(engine.gradient_of(inputs[i]));
    LOCKSTEP_CHECK(gradients.back() || options.allow_unused, "grad: input ", i,
                   " does not influence the outputs");
  }
  return gradients;
}

Tensor grad(const Tensor& output, const Tensor& input, GradOptions options) {
  return grad({&output, 1}, {&input, 1}, {}, options)[0];
}

std::vector<Tensor> internal::partial_gradients(std::span<const Tensor> outputs,
                                                std::span<const Tensor> inputs,
                                                std::span<const Tensor> seeds, bool create_graph) {
  Engine engine(outputs, inputs,
                {.create_graph = create_graph, .accumulate = false, .partial = true});
  for (size_t i = 0; i < outputs.size(); ++i) engine.seed(outputs[i], seeds[i]);
  engine.run();
  std::vector<Tensor> gradients;
  for (const Tensor& input : inputs) gradients.push_back(engine.gradient_of(input));
  return gradients;
}

}  // namespace lockstep
