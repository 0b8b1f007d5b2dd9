#include "conformance/modules.h"
#include "lockstep/nn/layers.h"

namespace lockstep::conformance {
namespace {

nn::RecurrentOptions recurrent_options(const Arguments& a) {
  return {.num_layers = a.integer("num_layers"),
          .bias = a.boolean("bias"),
          .batch_first = a.boolean("batch_first"),
          .dropout = a.number("dropout"),
          .bidirectional = a.boolean("bidirectional")};
}

BuiltModule lstm(const Arguments& a) {
  const auto module = std::make_shared<nn::LSTM>(a.integer("input_size"), a.integer("hidden_size"),
                                                 recurrent_options(a));
  return {module, [module](const Arguments& c) -> std::vector<Tensor> {
            const auto [output, h_n, c_n] =
                (*module)(c.tensor("input"), c.optional_tensor("hx.0"), c.optional_tensor("hx.1"));
            return {output, h_n, c_n};
          }};
}

// RNN and GRU, which have one state.
template <class M>
BuiltModule with_state(std::shared_ptr<M> module) {
  return {module, [module](const Arguments& c) -> std::vector<Tensor> {
            const auto [output, h_n] = (*module)(c.tensor("input"), c.optional_tensor("hx"));
            return {output, h_n};
          }};
}

BuiltModule rnn(const Arguments& a) {
  const std::string nonlinearity = a.string("nonlinearity");
  LOCKSTEP_CHECK(nonlinearity == "tanh" || nonlinearity == "relu", "'nonlinearity' is '",
                 nonlinearity, "'");
  const nn::RecurrentOptions options = recurrent_options(a);
  return with_state(std::make_shared<nn::RNN>(
      a.integer("input_size"), a.integer("hidden_size"),
      nn::RNN::Options{.num_layers = options.num_layers,
                       .nonlinearity = nonlinearity == "tanh" ? nn::RNN::Nonlinearity::tanh
                                                              : nn::RNN::Nonlinearity::relu,
                       .bias = options.bias,
                       .batch_first = options.batch_first,
                       .dropout = options.dropout,
                       .bidirectional = options.bidirectional}));
}

}  // namespace

std::optional<BuiltModule> build_recurrent(const std::string& name, const Arguments& attributes) {
  if (name == "LSTM") return lstm(attributes);
  if (name == "RNN") return rnn(attributes);
  if (name == "GRU") {
    return with_state(std::make_shared<nn::GRU>(attributes.integer("input_size"),
                                                attributes.integer("hidden_size"),
                                                recurrent_options(attributes)));
  }
  return std::nullopt;
}

}  // namespace lockstep::conformance
