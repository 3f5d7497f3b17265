// Kernels of our own on the CPU (core/kernels), for float32 and bfloat16 activations and int8 weights. Each row's
// results depend on that row alone.
#pragma once

#include "core/backends/backend.h"

namespace neox {

class CpuBackend : public Backend {
 public:
  const char* name() const override { return "native"; }
  bool supports(at::ScalarType dtype, at::Device device) const override;
  int preference() const override;

  std::shared_ptr<const FrozenWeights> pack(const at::Tensor& weight) const override;
  std::optional<at::ScalarType> int8_activations(at::Device device) const override;
  std::shared_ptr<const FrozenWeights> quantize(const at::Tensor& weight, at::ScalarType activations) const override;
  int64_t operand_bytes(at::ScalarType activations, bool int8) const override;

  void rotate(at::Tensor& qkv, const std::vector<Row>& rows, const std::vector<RotaryAngles>& angles,
              bool inverse) const override;
  void store(const at::Tensor& qkv, const std::vector<Row>& rows, int64_t layer) const override;
  at::Tensor attention(const at::Tensor& qkv, const std::vector<Row>& rows, int64_t layer) const override;
  AttentionGradients attention_backward(const at::Tensor& grad_out, const at::Tensor& qkv, const std::vector<Row>& rows,
                                        int64_t layer, bool block_only) const override;

  at::Tensor activate(const at::Tensor& x, Activation activation) const override;
  at::Tensor activate_backward(const at::Tensor& dy, const at::Tensor& x, Activation activation) const override;
  ChunkLoss cross_entropy(at::Tensor& logits, std::span<const int64_t> targets, double scale) const override;
};

}  // namespace neox
