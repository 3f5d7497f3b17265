// The reference: plain ATen operators, on any device and in any dtype.
#pragma once

#include "core/backends/backend.h"

namespace neox {

class AtenBackend : public Backend {
 public:
  const char* name() const override { return "aten"; }
  bool supports(at::ScalarType /*dtype*/, at::Device /*device*/) const override { return true; }
  int preference() const override { return 0; }

  bool packs() const override { return false; }
  std::shared_ptr<const FrozenWeights> pack(const at::Tensor& weight) const override;

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
