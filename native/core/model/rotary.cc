#include "core/model/rotary.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace neox {
namespace {

at::TensorOptions floats() { return at::TensorOptions().dtype(at::kFloat); }

// The order of float32 operations below is transformers' (modeling_rope_utils.py): the table must agree to the last
// bit, since angles are as large as the position. n/2 frequencies.

// base^(2k/n)
at::Tensor wave_numbers(const NeoXConfig& config, double base) {
  return at::pow(base, at::arange(0, config.rotary_dims, 2, floats()) / static_cast<double>(config.rotary_dims));
}

at::Tensor yarn(const NeoXConfig& config) {
  const double low = config.rotary_scaling.low;
  const double high = config.rotary_scaling.high;
  const at::Tensor numbers = wave_numbers(config, config.rotary_base);
  const at::Tensor plain = 1.0 / numbers;
  const at::Tensor divided = 1.0 / (numbers * config.rotary_scaling.factor);
  const at::Tensor ramp = ((at::arange(config.rotary_dims / 2, floats()) - low) / (high - low)).clamp(0.0, 1.0);
  const at::Tensor share = 1.0 - ramp;
  return divided * (1.0 - share) + plain * share;
}

at::Tensor llama3(const NeoXConfig& config) {
  const double factor = config.rotary_scaling.factor;
  const double low = config.rotary_scaling.low;
  const double high = config.rotary_scaling.high;
  const auto positions = static_cast<double>(config.rotary_scaling.original_positions);
  const at::Tensor plain = 1.0 / wave_numbers(config, config.rotary_base);
  const at::Tensor wavelength = (2.0 * std::numbers::pi) / plain;
  const at::Tensor is_long = wavelength > positions / low;
  const at::Tensor divided = at::where(is_long, plain / factor, plain);
  const at::Tensor share = (positions / wavelength - low) / (high - low);
  const at::Tensor smooth = (1.0 - share) * divided / factor + share * divided;
  const at::Tensor is_medium = at::logical_and(wavelength >= positions / high, wavelength <= positions / low);
  return at::where(is_medium, smooth, divided);
}

at::Tensor divided_by(const NeoXConfig& config, const std::vector<float>& factors) {
  const at::Tensor divisors = at::from_blob(const_cast<float*>(factors.data()), {static_cast<int64_t>(factors.size())});
  return 1.0 / (divisors * wave_numbers(config, config.rotary_base));
}

// The frequencies of rows up to trained_positions.
at::Tensor frequencies(const NeoXConfig& config) {
  const RotaryScaling& scaling = config.rotary_scaling;
  switch (scaling.type) {
    case RotaryType::kLinear: return 1.0 / wave_numbers(config, config.rotary_base) / scaling.factor;
    case RotaryType::kYarn: return yarn(config);
    case RotaryType::kLlama3: return llama3(config);
    case RotaryType::kLongRope: return divided_by(config, scaling.short_factors);
    default: return 1.0 / wave_numbers(config, config.rotary_base);
  }
}

RotaryAngles make_table(const NeoXConfig& config, const at::Tensor& frequencies, int64_t first, int64_t count,
                        at::Device device) {
  const at::Tensor angles = at::outer(at::arange(first, first + count, floats()), frequencies);
  const double scale = config.rotary_scaling.attention_factor;
  return {(angles.cos() * scale).to(device), (angles.sin() * scale).to(device), 0};
}

}  // namespace

Rotary::Rotary(const NeoXConfig& config, at::Device device)
    : config_(config),
      device_(device),
      table_(make_table(config, frequencies(config), 0, std::min(config.trained_positions, config.max_positions),
                        device)) {
  const bool has_long = config.max_positions > config.trained_positions;
  if (config.rotary_scaling.type != RotaryType::kLongRope || !has_long) return;
  long_ = make_table(config, divided_by(config, config.rotary_scaling.long_factors), 0, config.max_positions, device);
}

RotaryAngles Rotary::angles(int64_t first, int64_t count) const {
  const int64_t length = first + count;
  if (length <= table_.cos.size(0)) return {table_.cos, table_.sin, first};
  if (config_.rotary_scaling.type == RotaryType::kLongRope) return {long_.cos, long_.sin, first};
  const auto trained = static_cast<double>(config_.trained_positions);
  const auto dims = static_cast<double>(config_.rotary_dims);
  const double factor = config_.rotary_scaling.factor;
  const double stretch = factor * static_cast<double>(length) / trained - (factor - 1.0);
  const double base = config_.rotary_base * std::pow(stretch, dims / (dims - 2.0));
  return make_table(config_, 1.0 / wave_numbers(config_, base), first, count, device_);
}

}  // namespace neox
