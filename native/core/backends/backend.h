// What a model's arithmetic runs on: the operations that differ between kinds of hardware and libraries, and nothing
// else. A model calls them some dozen times a layer, whoever implements them.
//
// Shapes: M packed tokens of a batch, R rows of a matrix, H hidden size, N heads, D = H/N, P length of a block, V
// vocabulary. Tensors are contiguous unless something else is said, and on the backend's device.
//
// `qkv` is [M, N, 3, D]: head by head query, key, value. Another order is put into this one when weights are loaded.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/kernels/kernels.h"
#include "core/kv/past.h"

namespace neox {

// Activations are the functions that the kernels have.
using Activation = kernels::Function;

// What is done to a product's result before it is written.
enum class Epilogue { kNothing, kGelu, kGeluTanh };

// Weights W [out, in] of one frozen product y = x W^T, prepared once in the layout of a backend.
class FrozenWeights {
 public:
  virtual ~FrozenWeights() = default;
  // x [R, in] -> epilogue(x W^T + bias) + residual, [R, out]. An epilogue and a residual exclude each other.
  virtual at::Tensor multiply(const at::Tensor& x, const std::optional<at::Tensor>& bias, Epilogue epilogue,
                              const at::Tensor* residual) const = 0;

  // Whether the same weights also give dy W, without a copy of them.
  virtual bool transposes() const { return false; }
  // dy [R, out] -> dy W, [R, in]. Only where transposes().
  virtual at::Tensor multiply_transposed(const at::Tensor& dy) const;
  // A copy that is faster at that: multiply() of it is this one's multiply_transposed(). Only where transposes() and
  // the backend packs.
  virtual std::shared_ptr<const FrozenWeights> transposed() const;

  virtual int64_t bytes() const = 0;
};

// Cosines and sines of a row's positions: the lines [line, line + T) of tables [positions, n/2] float32, where the
// first n dimensions of a head rotate.
struct RotaryAngles {
  at::Tensor cos, sin;
  int64_t line = 0;
};

struct AttentionGradients {
  at::Tensor qkv;    // [M, N, 3, D]; undefined when only the block's was wanted
  at::Tensor block;  // [2, N, P, D] float32, summed over the rows
};

struct ChunkLoss {
  double loss = 0.0;    // sum of -log softmax(logits)[target]
  int64_t correct = 0;  // targets with the largest logit
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const char* name() const = 0;  // as the option `backend` has it
  virtual bool supports(at::ScalarType dtype, at::Device device) const = 0;
  // Of the backends that support a dtype and a device, the one with the highest is the default.
  virtual int preference() const = 0;

  // ---- products with frozen weights ----
  // Whether pack() makes a copy in a layout of its own.
  virtual bool packs() const { return true; }
  // `weight` [out, in] may have any strides, and need not outlive the call where the backend packs.
  virtual std::shared_ptr<const FrozenWeights> pack(const at::Tensor& weight) const = 0;
  // The dtype of activations beside int8 weights on a device; none: no int8 there.
  virtual std::optional<at::ScalarType> int8_activations(at::Device device) const;
  // Weights rounded to int8 with a scale for each output. `weight` [out, in] on the CPU, in any type of a checkpoint.
  virtual std::shared_ptr<const FrozenWeights> quantize(const at::Tensor& weight, at::ScalarType activations) const;
  // Bytes for an element of the copy that products make of x, where they cannot read it as it is; 0: they can.
  virtual int64_t operand_bytes(at::ScalarType activations, bool int8) const;

  // ---- attention ----
  // Rotates queries and keys in place (Su et al. 2021), each row by its angles; `inverse`: back.
  virtual void rotate(at::Tensor& qkv, const std::vector<Row>& rows, const std::vector<RotaryAngles>& angles,
                      bool inverse) const = 0;
  // Writes the keys and values of rows with a past into its storage, behind what is there. The storage has room, and
  // the past's length is not changed.
  virtual void store(const at::Tensor& qkv, const std::vector<Row>& rows, int64_t layer) const = 0;
  // -> [M, N * D]; of tokens that no row names nothing is written. Token j of a row sees its
  // block, its past and the row's tokens up to itself, in float32 arithmetic.
  virtual at::Tensor attention(const at::Tensor& qkv, const std::vector<Row>& rows, int64_t layer) const = 0;
  // The gradients given grad_out [M, N * D]. Rows have no past and share one block.
  virtual AttentionGradients attention_backward(const at::Tensor& grad_out, const at::Tensor& qkv,
                                                const std::vector<Row>& rows, int64_t layer, bool block_only) const = 0;

  // ---- elements ----
  virtual at::Tensor activate(const at::Tensor& x, Activation activation) const = 0;
  // `x` is activate()'s input.
  virtual at::Tensor activate_backward(const at::Tensor& dy, const at::Tensor& x, Activation activation) const = 0;

  // ---- loss ----
  // Of logits [R, V] and R targets. With `scale` > 0 the logits become the gradient of the loss times scale.
  virtual ChunkLoss cross_entropy(at::Tensor& logits, std::span<const int64_t> targets, double scale) const = 0;
};

}  // namespace neox
