// Weights of one frozen product y = x W^T, prepared once in the layout of a backend. W is [out, in].
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>

#include "core/model/linear.h"

namespace neox {

// What is done to a product's result before it is written.
enum class Epilogue { kNothing, kGelu, kGeluTanh };

class PackedWeights {
 public:
  virtual ~PackedWeights() = default;
  // x [M, in] -> epilogue(x W^T + bias) + residual, [M, out]. An epilogue and a residual exclude each other.
  virtual at::Tensor multiply(const at::Tensor& x, const std::optional<at::Tensor>& bias, Epilogue epilogue,
                              const at::Tensor* residual) const = 0;

  // Whether the same weights also give dy W, without a copy of them. It takes somewhat longer than with one, for the
  // same results.
  virtual bool transposes() const { return false; }
  // dy [M, out] -> dy W, [M, in]. Only where transposes().
  virtual at::Tensor multiply_transposed(const at::Tensor& dy) const;
  // The copy: multiply() of it is this one's multiply_transposed(). Only where transposes().
  virtual std::shared_ptr<const PackedWeights> transposed() const;
};

// `weight` may be transposed: its strides are read as they are.
std::shared_ptr<const PackedWeights> pack_weights(Backend backend, const at::Tensor& weight);

}  // namespace neox
