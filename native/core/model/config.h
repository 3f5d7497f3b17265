// The resolved configuration of a model: no optional is left, lib/architecture/ has decided everything.
//
// Letters used for shapes in native/: B rows (sequences), T new tokens of a row, M = sum of T over the rows of a batch
// (rows are packed one behind the other, there is no padding), P prefix length, S keys seen (prefix + past + new),
// L layers, H hidden size, N heads, D = H/N head size, I intermediate size, V vocabulary.
#pragma once

#include <cstdint>
#include <vector>

#include "core/backends/backend.h"

namespace neox {

// What every architecture has.
struct ModelConfig {
  int64_t vocab_size = 0;   // V, e.g. 44416
  int64_t hidden_size = 0;  // H, e.g. 768
  int64_t num_layers = 0;   // L, e.g. 12
  int64_t num_heads = 0;    // N, e.g. 12
  int64_t head_size = 0;    // D, e.g. 64
  // Up to here a token's keys and values depend on what stands before it alone; e.g. 2048.
  int64_t trained_positions = 0;
  // Of a row, prefix and text together; more than trained_positions with rotary scalings where the keys of a longer row
  // depend on its length.
  int64_t max_positions = 0;
};

enum class RotaryType { kDefault, kLinear, kDynamic, kYarn, kLlama3, kLongRope };

// How rotary frequencies are stretched for long rows; lib/architecture/rope.ts says what each type is.
struct RotaryScaling {
  RotaryType type = RotaryType::kDefault;
  double factor = 1.0;
  double attention_factor = 1.0;   // of cosines and sines
  int64_t original_positions = 0;  // llama3
  double low = 0.0, high = 0.0;    // yarn: dimensions; llama3: original positions over a wavelength
  // longrope: [ceil(n/2)], of rows up to trained_positions and of longer ones.
  std::vector<float> short_factors, long_factors;
};

// GPT-NeoX, and GPT-2, whose blocks are the same without rotation.
struct NeoXConfig : ModelConfig {
  int64_t intermediate_size = 0;   // I, e.g. 3072
  bool learned_positions = false;  // GPT-2: a vector for each position is added to the embedding
  int64_t rotary_dims = 0;         // the first n dimensions of a head rotate, e.g. 64 (all), 16 (a quarter) or 0
  double rotary_base = 10000.0;
  RotaryScaling rotary_scaling;
  bool parallel_residual = true;
  bool attention_bias = true;
  Activation activation = Activation::kGelu;
  double layer_norm_eps = 1e-5;
};

}  // namespace neox
