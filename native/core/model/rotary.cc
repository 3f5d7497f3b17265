#include "core/model/rotary.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>

#include <algorithm>
#include <cmath>

namespace neox {
namespace {

// The order of float32 operations is transformers': the table must agree to the last bit, since angles are as large as
// the position.
RotaryAngles make_table(const NeoXConfig& config, double base, int64_t first, int64_t count, at::Device device) {
  const auto options = at::TensorOptions().dtype(at::kFloat);
  const at::Tensor exponent = at::arange(0, config.rotary_dims, 2, options) / static_cast<double>(config.rotary_dims);
  at::Tensor inverse_frequency = 1.0 / at::pow(base, exponent);
  if (config.rotary_factor != 1.0) inverse_frequency = inverse_frequency / config.rotary_factor;
  const at::Tensor angles = at::outer(at::arange(first, first + count, options), inverse_frequency);
  return {angles.cos().to(device), angles.sin().to(device), 0};
}

}  // namespace

Rotary::Rotary(const NeoXConfig& config, at::Device device)
    : config_(config),
      device_(device),
      table_(make_table(config, config.rotary_base, 0, std::min(config.trained_positions, config.max_positions),
                        device)) {}

RotaryAngles Rotary::angles(int64_t first, int64_t count) const {
  const int64_t length = first + count;
  if (length <= table_.cos.size(0)) return {table_.cos, table_.sin, first};
  const auto trained = static_cast<double>(config_.trained_positions);
  const auto dims = static_cast<double>(config_.rotary_dims);
  const double factor = config_.rotary_dynamic_factor;
  const double stretch = factor * static_cast<double>(length) / trained - (factor - 1.0);
  return make_table(config_, config_.rotary_base * std::pow(stretch, dims / (dims - 2.0)), first, count, device_);
}

}  // namespace neox
