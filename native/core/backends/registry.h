// The backends that this build has, and which of them a model runs on.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <string>
#include <vector>

#include "core/backends/backend.h"

namespace neox {

// The one that all others are tested against, on every device and in every dtype.
const Backend& reference_backend();

// All of them, the default before the others.
const std::vector<const Backend*>& backends();

// What a model computes in.
struct Precision {
  at::ScalarType activations = at::kFloat;  // of activations, caches and prefixes
  bool int8 = false;                        // the matrices are int8; `activations` then follows from the backend
};

struct Choice {
  const Backend* backend = nullptr;
  Precision precision;
};

// `wanted` is the name of a backend or "auto"; `packed`: whether products may run on packed copies of the weights, as
// int8 weights must. The first question for a dtype may try a product.
// Throws NEOX_UNSUPPORTED where it does not run that precision on the device.
Choice choose_backend(const std::string& wanted, Precision precision, at::Device device, bool packed);

}  // namespace neox
