// Weights of one frozen product as int8 with a scale for each output: W[n, k] = q[n, k] * scale[n], where scale[n] is the largest |W[n, k]| / 127
// and q the nearest integers. Activations and sums keep their dtype.
#pragma once

#include <memory>

#include "core/model/packed_weights.h"

namespace neox {

class Int8Weights final : public PackedWeights {
 public:
  // `weight` [out, in], contiguous, on the CPU, in any type of a checkpoint; `dtype` is that of the activations.
  Int8Weights(const at::Tensor& weight, at::ScalarType dtype);

  at::Tensor multiply(const at::Tensor& x, const std::optional<at::Tensor>& bias, Epilogue epilogue,
                      const at::Tensor* residual) const override;
  bool transposes() const override { return true; }
  at::Tensor multiply_transposed(const at::Tensor& dy) const override;
  std::shared_ptr<const PackedWeights> transposed() const override;
  int64_t bytes() const;

 private:
  int64_t out_, in_;
  at::ScalarType dtype_;
  at::Tensor packed_;  // int8
  at::Tensor scales_;  // [out] float32
};

// What a model with int8 weights computes in: bfloat16 where the processor multiplies it, else float32, which then costs no more.
at::ScalarType int8_activations();

}  // namespace neox
