// A linear layer whose weights never change: y = x W^T + b, and the gradient of its input. There is no weight gradient.
//
// Backends: `aten` is at::linear, on any device. `onednn` (CPU) reorders the weights once into the layout that oneDNN's matrix product
// wants and fuses what follows the product. Each row of a packed product depends on that row alone, which at::linear does
// not promise.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string>

#include "core/model/weights.h"

namespace neox {

enum class Backend { kAten, kOneDnn };

// Which products of a linear layer run on reordered copies of its weights.
struct LinearPacking {
  bool forward = false;
  bool backward = false;
};

// Whether libtorch on this processor has the packed operators for a dtype.
bool onednn_supports(at::ScalarType dtype);

class FrozenLinear {
 public:
  // `weight` [out, in] and `bias` [out] (empty: none) are names in `source`.
  FrozenLinear(std::shared_ptr<const WeightSource> source, std::string weight, const std::string& bias,
               LinearPacking packing);

  at::Tensor forward(const at::Tensor& x) const;                                  // [M, in] -> [M, out]
  at::Tensor forward_gelu(const at::Tensor& x, bool tanh) const;                  // gelu(forward(x))
  at::Tensor forward_add(const at::Tensor& x, const at::Tensor& residual) const;  // forward(x) + residual
  at::Tensor backward(const at::Tensor& dy) const;                                // [M, out] -> [M, in]

  // Makes ready what backward() needs. A packed copy costs as much memory as the weights: made when training starts, not at load.
  void prepare_backward();
  int64_t memory_bytes() const;  // of all copies of the weights that it holds

 private:
  std::shared_ptr<const WeightSource> source_;
  std::string weight_name_;
  LinearPacking packing_;
  std::optional<at::Tensor> bias_;
  at::Tensor weight_;           // as it is, [out, in]; undefined where only packed copies are used
  at::Tensor packed_;           // for x W^T; undefined: not packed
  at::Tensor packed_backward_;  // for dy W
  int64_t weight_bytes_ = 0;
};

}  // namespace neox
