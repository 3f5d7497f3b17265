// Where the model takes its weights from, tensor by tensor. The model does not assume that they all lie in memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <unordered_map>
#include <vector>

#include "core/checkpoint/mapped_file.h"

namespace neox {

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // A contiguous tensor in the compute dtype, on the compute device. It may be a view of a file: do not write to it.
  virtual at::Tensor get(const std::string& name) const = 0;
  // The same as it is stored, on the CPU: no copy where it lies in a file as it is.
  virtual at::Tensor stored(const std::string& name) const = 0;
  // Says that a tensor from get() or stored() is not needed for now.
  virtual void release(const at::Tensor& tensor) const = 0;
};

// Weights in files of a checkpoint, under Hugging Face's names. Mapped where a file holds the compute dtype in the
// model's order, converted and put together where not.
class CheckpointWeights : public WeightSource {
 public:
  CheckpointWeights(const std::vector<TensorEntry>& entries, at::ScalarType dtype, at::Device device);
  at::Tensor get(const std::string& name) const override;
  at::Tensor stored(const std::string& name) const override;
  void release(const at::Tensor& tensor) const override;

 private:
  const TensorEntry& find(const std::string& name) const;

  std::unordered_map<std::string, TensorEntry> entries_;
  at::ScalarType dtype_;
  at::Device device_;
};

}  // namespace neox
