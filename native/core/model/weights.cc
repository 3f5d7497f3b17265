#include "core/model/weights.h"

#include "core/checkpoint/joined_tensor.h"
#include "core/error.h"

namespace neox {

CheckpointWeights::CheckpointWeights(const std::vector<TensorEntry>& entries, at::ScalarType dtype, at::Device device)
    : dtype_(dtype), device_(device) {
  for (const auto& entry : entries) entries_.emplace(entry.name, entry);
}

at::Tensor CheckpointWeights::get(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) throw CoreError("NEOX_BAD_CHECKPOINT", "The checkpoint has no tensor " + name);
  const at::Tensor mapped = read_tensor(found->second);
  const at::Tensor converted = mapped.to(device_, dtype_).contiguous();
  if (!converted.is_same(mapped)) release_pages(mapped);
  return converted;
}

void CheckpointWeights::release(const at::Tensor& tensor) const {
  if (tensor.device().is_cpu()) release_pages(tensor);
}

}  // namespace neox
