#include "core/checkpoint/weights.h"

#include "core/base/error.h"
#include "core/checkpoint/joined_tensor.h"

namespace neox {

CheckpointWeights::CheckpointWeights(const std::vector<TensorEntry>& entries, at::ScalarType dtype, at::Device device)
    : dtype_(dtype), device_(device) {
  for (const auto& entry : entries) entries_.emplace(entry.name, entry);
}

const TensorEntry& CheckpointWeights::find(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) throw CoreError("NEOX_BAD_CHECKPOINT", "The checkpoint has no tensor " + name);
  return found->second;
}

at::Tensor CheckpointWeights::stored(const std::string& name) const {
  const TensorEntry& entry = find(name);
  return read_tensor(entry, entry.dtype);
}

at::Tensor CheckpointWeights::get(const std::string& name) const {
  const at::Tensor tensor = read_tensor(find(name), dtype_);
  const at::Tensor there = tensor.to(device_);
  if (!there.is_same(tensor)) release_pages(tensor);
  return there;
}

void CheckpointWeights::release(const at::Tensor& tensor) const {
  if (tensor.device().is_cpu()) release_pages(tensor);
}

}  // namespace neox
