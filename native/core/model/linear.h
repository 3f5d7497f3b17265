// A linear layer whose weights never change: y = x W^T + b, and the gradient of its input. There is no weight gradient.
//
// Backends:
//   `aten`    at::linear, on any device; the reference.
//   `onednn`  CPU; the weights are reordered once into the layout that oneDNN's matrix product wants.
//   `native`  CPU; the weights are packed once for the kernels of our own (core/kernels/linear.kernel.cc).
// The last two fuse what follows the product, and each row of theirs depends on that row alone, which at::linear does
// not promise.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <string>

#include "core/checkpoint/weights.h"

namespace neox {

enum class Backend { kAten, kOneDnn, kNative };

const char* backend_name(Backend backend);

// Whether a backend computes a dtype on this processor.
bool backend_supports(Backend backend, at::ScalarType dtype);
// The fastest backend for a dtype on this processor.
Backend best_backend(at::ScalarType dtype);

// Which products of a linear layer run on packed copies of its weights.
struct LinearPacking {
  Backend backend = Backend::kAten;
  bool forward = false;
  bool backward = false;
  // Of int8 with a scale for each output: only with `native` and `forward`. Activations are of the dtype `activations`.
  bool int8 = false;
  at::ScalarType activations = at::kFloat;
};

// Weights of one product in a backend's layout.
class PackedWeights;

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
  // weights make one, `native` only if `copy` says so; its results are the same, and a step takes somewhat longer
  // without.
  void prepare_backward(bool copy);
  int64_t memory_bytes() const;             // of all copies of the weights that it holds
  int64_t backward_bytes(bool copy) const;  // that prepare_backward() would add

 private:
  bool transposes() const;  // packed_ gives dy W, too

  std::shared_ptr<const WeightSource> source_;
  std::string weight_name_;
  LinearPacking packing_;
  std::optional<at::Tensor> bias_;
  at::Tensor weight_;                            // as it is, [out, in]; undefined where only packed copies are used
  std::shared_ptr<const PackedWeights> packed_;  // for x W^T; null: not packed
  std::shared_ptr<const PackedWeights> packed_backward_;  // for dy W
  int64_t weight_bytes_ = 0;
};

}  // namespace neox
