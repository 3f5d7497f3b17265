#include "core/model/rotary.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>

namespace neox {

RotaryTable make_rotary_table(const NeoXConfig& config, at::Device device) {
  // The order of float32 operations is transformers': the table must agree to the last bit, since angles are as large as the
  // position.
  const auto options = at::TensorOptions().dtype(at::kFloat);
  const at::Tensor exponent = at::arange(0, config.rotary_dims, 2, options) / static_cast<double>(config.rotary_dims);
  at::Tensor inverse_frequency = 1.0 / at::pow(config.rotary_base, exponent);
  if (config.rotary_factor != 1.0) inverse_frequency = inverse_frequency / config.rotary_factor;
  const at::Tensor angles = at::outer(at::arange(config.max_positions, options), inverse_frequency);
  return {angles.cos().to(device), angles.sin().to(device)};
}

}  // namespace neox
