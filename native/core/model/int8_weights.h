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
  // dy [M, out] -> dy W, [M, in], with the same numbers as multiply(): a few outputs at a time become floats. Needs no second copy, and
  // is slow.
  at::Tensor multiply_transposed(const at::Tensor& dy) const;
  // The same as a packed product of its own: a second copy of the integers.
  std::shared_ptr<const PackedWeights> transposed() const;
  int64_t bytes() const;

 private:
  void unpack(int64_t first_panel, int64_t last_panel, int8_t* out) const;

  int64_t out_, in_;
  at::ScalarType dtype_;
  at::Tensor packed_;  // int8
  at::Tensor scales_;  // [out] float32
};

// What a model with int8 weights computes in: bfloat16 where the processor multiplies it, else float32, which then costs no more.
at::ScalarType int8_activations();

}  // namespace neox
