#include "hugging_face.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "lockstep/launcher/train/status.h"
#include "lockstep/runtime/files/file_system.h"
#include "lockstep/runtime/files/safetensors.h"
#include "lockstep/runtime/files/weights.h"
#include "lockstep/runtime/ops/elementwise.h"

namespace gpt {
namespace {

using namespace lockstep;
using train::check;
using train::take;

constexpr std::string_view kPrefix = "transformer.";

// GPT-2's Conv1D keeps its matrix the other way round.
bool is_transposed(std::string_view name) {
  for (std::string_view end : {"c_attn.weight", "c_proj.weight", "c_fc.weight"}) {
    if (name.ends_with(end)) return true;
  }
  return false;
}

const files::TensorEntry* find(const files::Weights& weights, const std::string& name) {
  const files::TensorEntry* entry = weights.find(name);
  return entry != nullptr ? entry : weights.find(std::string(kPrefix) + name);
}

const files::TensorEntry& require(const files::Weights& weights, const std::string& name,
                                  const std::filesystem::path& path) {
  const files::TensorEntry* entry = find(weights, name);
  LOCKSTEP_CHECK(entry != nullptr, path.string(), " has no tensor ", name);
  return *entry;
}

Shape shape_of(const files::TensorEntry& entry) {
  return Shape(std::span<const int64_t>(entry.shape));
}

// On the host.
Array read(const files::TensorEntry& entry) {
  Array values = Array::empty(shape_of(entry), entry.dtype);
  std::memcpy(values.data(), entry.data.data(), entry.data.size());
  return values;
}

Config config_from_json(const std::filesystem::path& path) {
  try {
    const auto json = nlohmann::json::parse(std::ifstream(path));
    const Config config{.layers = json.at("n_layer"),
                        .heads = json.at("n_head"),
                        .width = json.at("n_embd"),
                        .context = json.at("n_positions"),
                        .vocabulary = json.at("vocab_size")};
    for (int64_t size :
         {config.layers, config.heads, config.width, config.context, config.vocabulary}) {
      if (size <= 0) fail_usage({path.string(), ": a size of the model is ", size});
    }
    return config;
  } catch (const nlohmann::json::exception& error) {
    fail_usage({path.string(), ": ", error.what()});
  }
}

}  // namespace

Config read_config(const std::filesystem::path& path, int64_t heads) {
  const std::filesystem::path folder =
      std::filesystem::is_directory(path) ? path : path.parent_path();
  if (std::filesystem::exists(folder / "config.json")) {
    return config_from_json(folder / "config.json");
  }
  auto opened = files::open_weights(path);
  if (!opened.ok()) fail_usage({std::string(opened.status().message())});
  const files::Weights& weights = *opened;
  const Shape wte = shape_of(require(weights, "wte.weight", path));
  const Shape wpe = shape_of(require(weights, "wpe.weight", path));
  if (wte.rank() != 2 || wpe.rank() != 2) {
    fail_usage({path.string(), ": wte.weight has the shape ", wte, " and wpe.weight ", wpe,
                ", expected two dimensions each"});
  }
  Config config{
      .layers = 0, .heads = heads, .width = wte[1], .context = wpe[0], .vocabulary = wte[0]};
  while (find(weights, "h." + std::to_string(config.layers) + ".ln_1.weight") != nullptr) {
    ++config.layers;
  }
  return config;
}

void load_weights(const std::filesystem::path& path, Model& model) {
  const files::Weights weights = take(files::open_weights(path));
  for (auto& [name, parameter] : model.named_parameters()) {
    Array values = read(require(weights, name, path));
    if (is_transposed(name)) values = values.transpose(0, 1);
    LOCKSTEP_CHECK(values.shape() == parameter.shape(), path.string(), " holds ", name,
                   " with shape ", values.shape(), ", the model needs ", parameter.shape());
    parameter.assign(values);
  }
}

void export_model(const std::filesystem::path& directory, Model& model) {
  files::FileSystem& disk = files::posix_file_system();
  check(disk.create_directories(directory));
  std::vector<Array> kept;  // what the tensors' data points into, on the host
  std::vector<files::TensorData> tensors;
  for (auto& [name, parameter] : model.named_parameters()) {
    Array values = parameter.tensor().value();
    if (is_transposed(name)) values = values.transpose(0, 1);
    kept.push_back(kernels::contiguous(kernels::cast(values, DType::f32)).to_host());
    files::TensorData data;
    data.name = name;
    data.dtype = DType::f32;
    data.shape.assign(values.shape().begin(), values.shape().end());
    data.data = kept.back().data();
    tensors.push_back(data);
  }
  check(files::write_safetensors(disk, directory / "model.safetensors", tensors, {{"format", "pt"}})
            .status());
  const Config& config = model.config;
  const nlohmann::ordered_json json{{"architectures", {"GPT2LMHeadModel"}},
                                    {"model_type", "gpt2"},
                                    {"activation_function", "gelu_new"},
                                    {"n_layer", config.layers},
                                    {"n_head", config.heads},
                                    {"n_embd", config.width},
                                    {"n_positions", config.context},
                                    {"n_ctx", config.context},
                                    {"n_inner", nullptr},
                                    {"vocab_size", config.vocabulary},
                                    {"layer_norm_epsilon", 1e-5},
                                    {"attn_pdrop", 0.0},
                                    {"embd_pdrop", 0.0},
                                    {"resid_pdrop", 0.0},
                                    {"tie_word_embeddings", true}};
  check(files::write_file_atomically(disk, directory / "config.json", json.dump(2) + "\n"));
}

}  // namespace gpt
