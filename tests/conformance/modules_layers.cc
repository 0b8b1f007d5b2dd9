#include "conformance/modules.h"
#include "lockstep/nn/layers.h"

namespace lockstep::conformance {
namespace {

template <class M>
BuiltModule built(M layer) {
  auto module = std::make_shared<M>(std::move(layer));
  return {module, on_input([module](const Tensor& x) { return (*module)(x); })};
}

// What PyTorch's own Sequential does with its layers.
struct Chain : nn::Layer<Chain> {
  Tensor forward(Tensor x) {
    for (const BuiltModule& layer : layers) x = layer.call(Arguments({{"input", x}}, {}))[0];
    return x;
  }
  void visit(nn::Visitor& v) override {
    for (size_t i = 0; i < layers.size(); ++i) v(std::to_string(i), *layers[i].module);
  }

  std::vector<BuiltModule> layers;
};

nn::ConvolutionOptions convolution_options(const Arguments& a) {
  LOCKSTEP_CHECK(a.string("padding_mode") == "zeros", "'padding_mode' is not zeros");
  nn::ConvolutionOptions options{.stride = a.integers("stride"),
                                 .dilation = a.integers("dilation"),
                                 .groups = a.integer("groups"),
                                 .bias = a.boolean("bias")};
  if (!a.is_string("padding")) {
    options.padding = a.integers("padding");
  } else {
    options.same = a.string("padding") == "same";
    LOCKSTEP_CHECK(options.same || a.string("padding") == "valid", "'padding' is unknown");
  }
  return options;
}

nn::ConvolutionTransposeOptions transpose_options(const Arguments& a) {
  LOCKSTEP_CHECK(a.string("padding_mode") == "zeros", "'padding_mode' is not zeros");
  return {.stride = a.integers("stride"),
          .padding = a.integers("padding"),
          .output_padding = a.integers("output_padding"),
          .dilation = a.integers("dilation"),
          .groups = a.integer("groups"),
          .bias = a.boolean("bias")};
}

template <class M>
BuiltModule convolution(const Arguments& a, decltype(M::options) options) {
  return built(M(a.integer("in_channels"), a.integer("out_channels"), a.integers("kernel_size"),
                 std::move(options)));
}

template <class M>
BuiltModule batch_norm(const Arguments& a) {
  return built(
      M(a.integer("num_features"), {.eps = a.number("eps"),
                                    .momentum = a.optional_number("momentum"),
                                    .affine = a.boolean("affine"),
                                    .track_running_stats = a.boolean("track_running_stats")}));
}

BuiltModule max_pool2d(const Arguments& a) {
  nn::MaxPoolOptions options;
  if (a.has("stride")) options.stride = a.integers("stride");
  if (a.has("padding")) options.padding = a.integers("padding");
  if (a.has("dilation")) options.dilation = a.integers("dilation");
  if (a.has("ceil_mode")) options.ceil_mode = a.boolean("ceil_mode");
  if (a.has("return_indices")) {
    LOCKSTEP_CHECK(!a.boolean("return_indices"), "'return_indices' cannot be expressed");
  }
  return built(nn::MaxPool2d(a.integers("kernel_size"), options));
}

BuiltModule gelu_layer(const Arguments& a) {
  const std::string form = a.has("approximate") ? a.string("approximate") : "none";
  LOCKSTEP_CHECK(form == "none" || form == "tanh", "'approximate' is '", form, "'");
  return built(nn::GELU(form == "none" ? GeluForm::erf : GeluForm::tanh));
}

BuiltModule flatten_layer(const Arguments& a) {
  return built(nn::Flatten(a.has("start_dim") ? a.dim("start_dim") : 1,
                           a.has("end_dim") ? a.dim("end_dim") : -1));
}

BuiltModule relu_layer(const Arguments& a) {
  if (a.has("inplace")) a.boolean("inplace");  // The values are the same.
  return built(nn::ReLU());
}

BuiltModule chain(const Arguments& a) {
  Chain sequence;
  for (const Json& entry : a.attribute("layers")) {
    const Arguments arguments({}, entry.at("attributes"));
    const std::string name = entry.at("name").get<std::string>();
    auto layer = build_layer(name, arguments);
    LOCKSTEP_CHECK(layer.has_value(), "Sequential holds '", name, "', which is unknown");
    arguments.check_all_read();
    sequence.layers.push_back(std::move(*layer));
  }
  return built(std::move(sequence));
}

Shape normalized_shape(const Arguments& a) {
  return Shape(std::span<const int64_t>(a.integers("normalized_shape")));
}

using Build = BuiltModule (*)(const Arguments&);

}  // namespace

std::optional<BuiltModule> build_layer(const std::string& name, const Arguments& attributes) {
  const std::map<std::string, Build> builders = {
      {"BatchNorm1d", batch_norm<nn::BatchNorm1d>},
      {"BatchNorm2d", batch_norm<nn::BatchNorm2d>},
      {"Conv1d",
       [](const Arguments& a) { return convolution<nn::Conv1d>(a, convolution_options(a)); }},
      {"Conv2d",
       [](const Arguments& a) { return convolution<nn::Conv2d>(a, convolution_options(a)); }},
      {"ConvTranspose2d",
       [](const Arguments& a) {
         return convolution<nn::ConvTranspose2d>(a, transpose_options(a));
       }},
      {"Dropout", [](const Arguments& a) { return built(nn::Dropout(a.number("p"))); }},
      {"Embedding",
       [](const Arguments& a) {
         return built(nn::Embedding(a.integer("num_embeddings"), a.integer("embedding_dim"),
                                    {.padding_idx = a.optional_integer("padding_idx")}));
       }},
      {"GroupNorm",
       [](const Arguments& a) {
         return built(nn::GroupNorm(a.integer("num_groups"), a.integer("num_channels"),
                                    {.eps = a.number("eps"), .affine = a.boolean("affine")}));
       }},
      {"LayerNorm",
       [](const Arguments& a) {
         return built(nn::LayerNorm(normalized_shape(a),
                                    {.eps = a.number("eps"),
                                     .elementwise_affine = a.boolean("elementwise_affine"),
                                     .bias = a.boolean("bias")}));
       }},
      {"RMSNorm",
       [](const Arguments& a) {
         return built(nn::RMSNorm(normalized_shape(a),
                                  {.eps = a.optional_number("eps"),
                                   .elementwise_affine = a.boolean("elementwise_affine")}));
       }},
      {"Linear",
       [](const Arguments& a) {
         return built(nn::Linear(a.integer("in_features"), a.integer("out_features"),
                                 {.bias = a.boolean("bias")}));
       }},
      {"Sequential", chain},
      {"ReLU", relu_layer},
      {"GELU", gelu_layer},
      {"Tanh", [](const Arguments&) { return built(nn::Tanh()); }},
      {"MaxPool2d", max_pool2d},
      {"Flatten", flatten_layer},
  };
  const auto found = builders.find(name);
  if (found == builders.end()) return std::nullopt;
  return found->second(attributes);
}

}  // namespace lockstep::conformance
