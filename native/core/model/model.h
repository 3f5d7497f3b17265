// A frozen language model, as generation and training see it: forward passes over packed batches, and the backward pass
// to the prefix. Each architecture is a class of its own behind this one (model/gpt_neox.h).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "core/backends/registry.h"
#include "core/base/cancel.h"
#include "core/base/tensor_pool.h"
#include "core/kv/past.h"
#include "core/model/config.h"
#include "core/model/linear.h"

namespace neox {

// How a model is held.
struct ModelOptions {
  Precision precision;
  at::Device device = at::kCPU;
  const Backend* backend = &reference_backend();
  // Which products run on packed copies of the weights. Each copy costs the memory of the weights.
  bool pack_forward = true;
  bool pack_backward = true;

  LinearPacking packing() const {
    return {pack_forward ? backend : &reference_backend(), pack_backward ? backend : &reference_backend(), precision};
  }
};

// Where targets are; parallel to the M packed tokens.
constexpr int64_t kIgnoredTarget = -1;

struct LossSum {
  double loss = 0.0;  // sum over target tokens of -log p(target)
  int64_t tokens = 0;
  int64_t correct = 0;  // target tokens that were the most likely one
};

struct BackwardOptions {
  // Gradients are this much larger on their way through the model, so that a half type does not lose the small ones.
  double loss_scale = 1.0;
  // Keeps of each block only its input, and runs the block once more on the way back. Changes no bit of the result.
  bool checkpointing = false;
};

struct LossAndGradient {
  LossSum sum;
  at::Tensor prefix;  // gradient of the SUM of losses: [L, 2, N, P, D] float32; Inf or NaN where the dtype overflowed
};

// Asks a forward pass for the hidden states of one layer, as transformers' hidden_states has them: 0 is the embedding,
// i what block i gives, and the last, num_layers, has been through the final layer norm.
struct HiddenLayer {
  int64_t layer = 0;
  at::Tensor states;  // [M, H], set by the pass
};

// Whose hidden states a forward pass gives: of all tokens, or of the last one of each row. Behind the keys and values
// of the last block only those tokens are computed.
enum class Wanted { kAll, kLast };

class Model {
 public:
  virtual ~Model() = default;

  virtual const ModelConfig& config() const = 0;
  virtual int64_t weight_bytes() const = 0;

  // Hidden states [M, H], or [rows, H] of the last tokens, behind the last block, before the final layer norm. `ids`
  // [M] int64 on the model's device. The rows' pasts grow by their tokens; with kLast every row has one.
  // Throws NEOX_TOO_LONG where a row has more positions than the model, and Cancelled.
  virtual at::Tensor forward(const at::Tensor& ids, std::vector<Row>& rows, Wanted wanted, const CancelFlag& cancel,
                             HiddenLayer* layer = nullptr) const = 0;
  // Logits [R, V] float32 of hidden states [R, H].
  virtual at::Tensor logits(const at::Tensor& hidden) const = 0;

  // ---- training ----
  // Makes ready what the backward pass needs and has not yet; see FrozenLinear::prepare_backward.
  virtual void prepare_backward(bool copy, const CancelFlag& cancel) = 0;
  virtual int64_t backward_bytes(bool copy) const = 0;  // of weights that prepare_backward() would add
  // Loss of a batch whose rows have no past; `targets` parallel to ids, kIgnoredTarget: none.
  virtual LossSum loss(const at::Tensor& ids, const std::vector<int64_t>& targets, std::vector<Row>& rows,
                       const CancelFlag& cancel) const = 0;
  // The rows must share one block, a prefix.
  virtual LossAndGradient loss_and_gradient(const at::Tensor& ids, const std::vector<int64_t>& targets,
                                            std::vector<Row>& rows, const BackwardOptions& backward,
                                            const CancelFlag& cancel) const = 0;

  const ModelOptions& options() const { return options_; }
  const KeyValueShape& kv_shape() const { return kv_shape_; }
  // What losses and gradients are computed in. It keeps its memory for the next batch of a training until it is
  // trimmed.
  const std::shared_ptr<TensorPool>& pool() const { return pool_; }

 protected:
  Model(const ModelConfig& config, const ModelOptions& options)
      : options_(options),
        kv_shape_{config.num_layers, config.num_heads, config.head_size, config.max_positions,
                  at::TensorOptions().dtype(options.precision.activations).device(options.device)} {}
  const Backend& backend() const { return *options_.backend; }

 private:
  ModelOptions options_;
  KeyValueShape kv_shape_;
  std::shared_ptr<TensorPool> pool_ = TensorPool::create();
};

}  // namespace neox
