// Rotary position embedding: tables of cosines and sines, always float32.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/model/config.h"

namespace neox {

struct RotaryTable {
  at::Tensor cos;  // [positions, n/2] float32
  at::Tensor sin;  // [positions, n/2] float32
};

RotaryTable make_rotary_table(const NeoXConfig& config, at::Device device);

}  // namespace neox
