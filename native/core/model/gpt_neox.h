// GPT-NeoX. Black et al. 2022, "GPT-NeoX-20B"; numerically after transformers' GPTNeoXForCausalLM.
// GPT-2 (Radford et al. 2019) is the same blocks with a sequential residual, no rotation and learned positions; its
// weights come in this layout.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <vector>

#include "core/checkpoint/weights.h"
#include "core/model/linear.h"
#include "core/model/model.h"
#include "core/model/rotary.h"

namespace neox {

class GPTNeoX final : public Model {
 public:
  // `progress` is called with the share of layers that are ready, in (0, 1].
  GPTNeoX(const NeoXConfig& config, const std::shared_ptr<const WeightSource>& weights, const ModelOptions& options,
          const CancelFlag& cancel, const std::function<void(double)>& progress);

  const ModelConfig& config() const override { return config_; }
  int64_t weight_bytes() const override;
  at::Tensor forward(const at::Tensor& ids, std::vector<Row>& rows, Wanted wanted, const CancelFlag& cancel,
                     HiddenLayer* layer) const override;
  at::Tensor logits(const at::Tensor& hidden) const override;

  void prepare_backward(bool copy, const CancelFlag& cancel) override;
  int64_t backward_bytes(bool copy) const override;
  LossSum loss(const at::Tensor& ids, const std::vector<int64_t>& targets, std::vector<Row>& rows,
               const CancelFlag& cancel) const override;
  LossAndGradient loss_and_gradient(const at::Tensor& ids, const std::vector<int64_t>& targets, std::vector<Row>& rows,
                                    const BackwardOptions& backward, const CancelFlag& cancel) const override;

 private:
  struct LayerNorm {
    at::Tensor weight, bias;  // [H]
  };
  struct Block {
    LayerNorm input_norm, post_attention_norm;
    FrozenLinear query_key_value, dense, h_to_4h, four_h_to_h;
  };
  // What all blocks have in common in one pass.
  struct Pass {
    std::vector<Row>& rows;
    std::vector<RotaryAngles> angles;  // of the rows
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

  // Checks the rows' positions.
  Pass begin(std::vector<Row>& rows) const;
  at::Tensor embed(const at::Tensor& ids, const std::vector<Row>& rows) const;  // [M] -> [M, H]
  at::Tensor norm(const at::Tensor& x, const LayerNorm& ln) const;
  void rotate(at::Tensor& qkv, const Pass& pass, bool inverse) const;
  // Of the normed input of a block, rotated, and keys and values stored: [M, N, 3, D].
  at::Tensor query_key_value(const Block& block, const at::Tensor& normed, const Pass& pass, int64_t layer) const;
  at::Tensor mlp(const Block& block, const at::Tensor& x, const at::Tensor& residual) const;
  at::Tensor block_forward(const Block& block, const at::Tensor& x, const Pass& pass, int64_t layer,
                           Wanted wanted) const;
  // What follows the attention of a block with input x.
  at::Tensor block_rest(const Block& block, const at::Tensor& attended, const at::Tensor& x) const;
  // Runs a block up to the activation of its MLP. Returns what the MLP is added to, [M, H].
  at::Tensor block_save(const Block& block, const at::Tensor& x, const Pass& pass, int64_t layer, Saved& saved) const;
  at::Tensor block_backward(const Block& block, const at::Tensor& dy, const Pass& pass, int64_t layer,
                            const Saved& saved, at::Tensor& grad_prefix) const;
  // Loss of hidden states; with `dx` also its gradient [M, H], of the sum of losses times `scale`.
  LossSum output_loss(const at::Tensor& hidden, const std::vector<int64_t>& targets, double scale, at::Tensor* dx,
                      const CancelFlag& cancel) const;

  NeoXConfig config_;
  Rotary rotary_;
  at::Tensor embedding_;  // [V, H]; beside int8 matrices as it is stored
  at::Tensor positions_;  // [positions, H] in the dtype of activations, where they are learned; else undefined
  std::vector<Block> blocks_;
  LayerNorm final_norm_;
  std::unique_ptr<FrozenLinear> output_;
};

}  // namespace neox
