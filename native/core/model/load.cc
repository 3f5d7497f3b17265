#include "core/model/load.h"

#include "core/base/heap.h"
#include "core/model/gpt_neox.h"

namespace neox {
namespace {

using Progress = std::function<void(double)>;
using Weights = std::shared_ptr<const WeightSource>;

std::shared_ptr<Model> make(const NeoXConfig& config, const Weights& weights, const ModelOptions& options,
                            const CancelFlag& cancel, const Progress& progress) {
  return std::make_shared<GPTNeoX>(config, weights, options, cancel, progress);
}

}  // namespace

std::shared_ptr<Model> load_model(const ArchitectureConfig& config, const std::vector<TensorEntry>& entries,
                                  const LoadOptions& options, const CancelFlag& cancel, const Progress& progress) {
  const bool packed = options.pack != "none";
  const Choice choice = choose_backend(options.backend, options.precision, options.device, packed);
  const ModelOptions held = {choice.precision, options.device, choice.backend, packed,
                             packed && options.pack != "forward"};
  const auto weights = std::make_shared<CheckpointWeights>(entries, choice.precision.activations, options.device);
  auto model = std::visit([&](const auto& one) { return make(one, weights, held, cancel, progress); }, config);
  if (options.pack == "both") model->prepare_backward(true, cancel);
  trim_heap();
  return model;
}

}  // namespace neox
