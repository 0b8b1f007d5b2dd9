#pragma once

#include <filesystem>
#include <optional>

#include "model.h"

// GPT-2 models in Hugging Face's form: a directory with config.json and model.safetensors, or a
// safetensors file alone.
namespace gpt {

// The shape of the model at `path`: from config.json beside the weights, else from the weights
// themselves, where `heads` has to be known. Throws UsageError.
Config read_config(const std::filesystem::path& path, int64_t heads);

// Copies the weights into a placed model. Names may have the prefix "transformer."; projections are
// stored [in, out] there and [out, in] here. Throws Error naming what is missing or does not fit.
void load_weights(const std::filesystem::path& path, Model& model);

// Writes config.json and model.safetensors (F32).
void export_model(const std::filesystem::path& directory, Model& model);

}  // namespace gpt
