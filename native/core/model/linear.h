// A linear layer whose weights never change: y = x W^T + b, and the gradient of its input. There is no weight gradient.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string>

#include "core/backends/backend.h"
#include "core/backends/registry.h"
#include "core/checkpoint/weights.h"

namespace neox {

// Whose products a linear layer runs on.
struct LinearPacking {
  const Backend* forward = &reference_backend();  // x W^T
  const Backend* backward =
      &reference_backend();  // dy W, where the forward weights do not give it, or a copy is wanted
  Precision precision;       // int8: of the forward backend
};

class FrozenLinear {
 public:
  // `weight` [out, in] and `bias` [out] (empty: none) are names in `source`.
  FrozenLinear(std::shared_ptr<const WeightSource> source, std::string weight, const std::string& bias,
               LinearPacking packing);

  at::Tensor forward(const at::Tensor& x) const;                                  // [M, in] -> [M, out]
  at::Tensor forward_gelu(const at::Tensor& x, bool tanh) const;                  // gelu(forward(x))
  at::Tensor forward_add(const at::Tensor& x, const at::Tensor& residual) const;  // forward(x) + residual
  at::Tensor backward(const at::Tensor& dy) const;                                // [M, out] -> [M, in]

  // Makes ready what backward() needs, when training starts, not at load. Backends that cannot do without a copy of the
  // weights make one, others only if `copy` says so; the results are the same, and a step takes somewhat longer
  // without.
  void prepare_backward(bool copy);
  int64_t memory_bytes() const;             // of all copies of the weights that it holds
  int64_t backward_bytes(bool copy) const;  // that prepare_backward() would add

 private:
  std::shared_ptr<const WeightSource> source_;
  std::string weight_name_;
  LinearPacking packing_;
  std::optional<at::Tensor> bias_;
  std::shared_ptr<const FrozenWeights> weights_;
  std::shared_ptr<const FrozenWeights> transposed_;  // null: weights_ gives dy W, or no training has begun
  int64_t weight_bytes_ = 0;                         // of one copy
};

}  // namespace neox
