// The GPT-NeoX model, frozen: forward passes over packed batches, and the backward pass to the prefix.
// Black et al. 2022, "GPT-NeoX-20B"; numerically after transformers' GPTNeoXForCausalLM.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <vector>

#include "core/base/cancel.h"
#include "core/base/tensor_pool.h"
#include "core/checkpoint/weights.h"
#include "core/kv/past.h"
#include "core/model/attention.h"
#include "core/model/config.h"
#include "core/model/linear.h"

namespace neox {

struct ModelOptions {
  at::ScalarType dtype = at::kFloat;  // of activations, caches and prefixes
  bool int8 = false;                  // the matrices are int8: only with the native backend, and packed
  at::Device device = at::kCPU;
  Backend backend = Backend::kAten;
  // Which products run on packed copies of the weights (not with aten). Each copy costs the memory of the weights.
  bool pack_forward = true;
  bool pack_backward = true;

  bool use_kernels() const { return backend != Backend::kAten && device.is_cpu(); }

  LinearPacking pack() const {
    return {backend, use_kernels() && pack_forward, use_kernels() && pack_backward, int8, dtype};
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

// Asks a forward pass for the hidden states of one layer, as transformers' hidden_states has them: 0 is the embedding,
// i what block i gives, and the last, num_layers, has been through the final layer norm.
struct HiddenLayer {
  int64_t layer = 0;
  at::Tensor states;  // [M, H], set by the pass
};

// Whose hidden states a forward pass gives: of all tokens, or of the last one of each row. Behind the keys and values
// of the last block only those tokens are computed.
enum class Wanted { kAll, kLast };

class GPTNeoX {
 public:
  // `progress` is called with the share of layers that are ready, in (0, 1].
  GPTNeoX(const NeoXConfig& config, const std::shared_ptr<const WeightSource>& weights, const ModelOptions& options,
          const CancelFlag& cancel, const std::function<void(double)>& progress);

  const NeoXConfig& config() const { return config_; }
  const ModelOptions& options() const { return options_; }
  const KeyValueShape& kv_shape() const { return shape_; }
  int64_t weight_bytes() const;

  // Hidden states [M, H], or [rows, H] of the last tokens, behind the last block, before the final layer norm. `ids`
  // [M] int64. Rows' caches grow by their tokens; with kLast every row has one.
  at::Tensor forward(const at::Tensor& ids, std::vector<Row>& rows, Wanted wanted, const CancelFlag& cancel,
                     HiddenLayer* layer = nullptr) const;
  // Logits [R, V] float32 of hidden states [R, H].
  at::Tensor logits(const at::Tensor& hidden) const;

  // ---- training ----
  // Makes ready what the backward pass needs and has not yet; see FrozenLinear::prepare_backward.
  void prepare_backward(bool copy, const CancelFlag& cancel);
  int64_t backward_bytes(bool copy) const;  // of weights that prepare_backward() would add
  // What losses and gradients are computed in. It keeps its memory for the next batch of a training until it is
  // trimmed.
  const std::shared_ptr<TensorPool>& pool() const { return pool_; }
  // Loss of a batch whose rows have no cache; `targets` parallel to ids, kIgnoredTarget: none.
  LossSum loss(const at::Tensor& ids, const std::vector<int64_t>& targets, std::vector<Row>& rows,
               const CancelFlag& cancel) const;
  struct LossAndGradient {
    LossSum sum;
    at::Tensor prefix;  // gradient of the SUM of losses: [L, 2, N, P, D] float32; Inf or NaN where the dtype overflowed
  };
  // The rows must share one prefix.
  LossAndGradient loss_and_gradient(const at::Tensor& ids, const std::vector<int64_t>& targets, std::vector<Row>& rows,
                                    const BackwardOptions& backward, const CancelFlag& cancel) const;

 private:
  struct LayerNorm {
    at::Tensor weight, bias;  // [H]
  };
  struct Block {
    LayerNorm input_norm, post_attention_norm;
    FrozenLinear query_key_value, dense, h_to_4h, four_h_to_h;
  };
  // What the backward pass of a block needs of its forward pass.
  struct Saved {
    at::Tensor x;             // [M, H] input
    at::Tensor mean1, rstd1;  // [M, 1] of the first layer norm
    at::Tensor qkv;           // [M, N, 3, D] after rotation
    at::Tensor middle;        // [M, H] input of the second layer norm
    at::Tensor mean2, rstd2;
    at::Tensor up;  // [M, I] before the activation
  };

  at::Tensor embed(const at::Tensor& ids) const;  // [M] -> [M, H]
  void check_positions(const std::vector<Row>& rows) const;
  at::Tensor norm(const at::Tensor& x, const LayerNorm& ln) const;
  at::Tensor mlp(const Block& block, const at::Tensor& x, const at::Tensor& residual) const;
  at::Tensor block_forward(const Block& block, const at::Tensor& x, const std::vector<Row>& rows, int64_t layer,
                           Wanted wanted) const;
  // What follows the attention of a block with input x.
  at::Tensor block_rest(const Block& block, const at::Tensor& attended, const at::Tensor& x) const;
  // Runs a block up to the activation of its MLP. Returns what the MLP is added to, [M, H].
  at::Tensor block_save(const Block& block, const at::Tensor& x, const std::vector<Row>& rows, int64_t layer,
                        Saved& saved) const;
  at::Tensor block_backward(const Block& block, const at::Tensor& dy, const std::vector<Row>& rows, int64_t layer,
                            const Saved& saved, at::Tensor& grad_prefix) const;
  // Loss of hidden states; with `dx` also its gradient [M, H], of the sum of losses times `scale`.
  LossSum output_loss(const at::Tensor& hidden, const std::vector<int64_t>& targets, double scale, at::Tensor* dx,
                      const CancelFlag& cancel) const;

  NeoXConfig config_;
  ModelOptions options_;
  KeyValueShape shape_;
  at::Tensor embedding_;  // [V, H]; beside int8 matrices as it is stored
  std::vector<Block> blocks_;
  LayerNorm final_norm_;
  std::unique_ptr<FrozenLinear> output_;
  std::unique_ptr<Attention> attention_;
  std::shared_ptr<TensorPool> pool_ = TensorPool::create();
};

}  // namespace neox
