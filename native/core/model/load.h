// From the files of a checkpoint, and the names that users give to backends and ways of packing, to a model.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "core/base/cancel.h"
#include "core/checkpoint/weights.h"
#include "core/model/model.h"

namespace neox {

// One alternative for each architecture.
using ArchitectureConfig = std::variant<NeoXConfig>;

struct LoadOptions {
  std::string backend = "auto";  // or the name of one
  // Packed copies of the weights: "none", "forward", "both" (made at once), or "auto" (the backward one when training
  // starts, if there is memory for it).
  std::string pack = "auto";
  Precision precision;
  at::Device device = at::kCPU;
};

// `progress` is called with the share of layers that are ready, in (0, 1].
// Throws NEOX_UNSUPPORTED where no backend does what is asked for, NEOX_BAD_CHECKPOINT where a tensor is missing, and
// Cancelled.
std::shared_ptr<Model> load_model(const ArchitectureConfig& config, const std::vector<TensorEntry>& entries,
                                  const LoadOptions& options, const CancelFlag& cancel,
                                  const std::function<void(double)>& progress);

}  // namespace neox
