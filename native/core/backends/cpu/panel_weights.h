// Weights of one frozen product in the layout of the kernels of our own (core/kernels/linear.kernel.cc).
//
// They are of the activations' dtype, or int8 with a scale for each output: W[n, k] = q[n, k] * scale[n], where
// scale[n] is the largest |W[n, k]| / 127 and q the nearest integers. Rows are rounded to integers for the products
// with them, to 15 bits for the largest of 1024 elements (kernels::QuantizeTask).
#pragma once

#include <memory>

#include "core/backends/backend.h"
#include "core/kernels/kernels.h"

namespace neox {

class PanelWeights final : public FrozenWeights {
 public:
  // `weight` [out, in] in float32 or bfloat16, with any strides.
  static std::shared_ptr<const PanelWeights> pack(const at::Tensor& weight);
  // As int8. `weight` [out, in], contiguous, on the CPU, in any type of a checkpoint; `activations` float32 or
  // bfloat16.
  static std::shared_ptr<const PanelWeights> quantize(const at::Tensor& weight, at::ScalarType activations);

  at::Tensor multiply(const at::Tensor& x, const std::optional<at::Tensor>& bias, Epilogue epilogue,
                      const at::Tensor* residual) const override;
  bool transposes() const override { return true; }
  at::Tensor multiply_transposed(const at::Tensor& dy) const override;
  std::shared_ptr<const FrozenWeights> transposed() const override;
  int64_t bytes() const override;

 private:
  // Room for packed weights.
  PanelWeights(int64_t out, int64_t in, at::ScalarType activations, at::ScalarType weights);

  // The rows of x as a product reads them.
  struct Operand {
    at::Tensor x;       // [M, K], or behind an odd K another element
    at::Tensor scales;  // float32 [M, quantized_chunks(K)] for int8
  };
  Operand readable_rows(const at::Tensor& x, const at::Tensor& factors) const;
  kernels::LinearTask task(const Operand& rows, int64_t out, int64_t in, const at::Tensor& scales,
                           at::Tensor& result) const;
  // The panels [first, last) of the transposed weights, packed, to `to`.
  void transpose_panels(int64_t first, int64_t last, char* to) const;
  int64_t transposed_panel_bytes() const;
  at::ScalarType activations() const { return element_ == kernels::Element::kFloat32 ? at::kFloat : at::kBFloat16; }
  kernels::WeightElement weight_element() const;
  char* data() const { return static_cast<char*>(packed_.mutable_data_ptr()); }

  int64_t out_, in_;
  kernels::Element element_;  // of the activations
  at::Tensor packed_;
  // float32, of what comes out [out] and, where int8 weights were transposed, of what comes in [in]; undefined: none.
  at::Tensor scales_, input_scales_;
};

}  // namespace neox
