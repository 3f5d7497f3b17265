// The training half of GPTNeoX: a forward pass that keeps what the backward pass needs, the loss fused with the output
// projection, and the backward pass to the prefix's keys and values. There are no weight gradients anywhere.
#include <ATen/TensorOperators.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/native_layer_norm.h>
#include <ATen/ops/native_layer_norm_backward.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <tuple>

#include "core/model/gpt_neox.h"

namespace neox {
namespace {

// Rows of logits that exist at a time: the memory is kChunk * V elements, whatever the batch.
constexpr int64_t kChunk = 128;

}  // namespace

void GPTNeoX::prepare_backward(bool copy, const CancelFlag& cancel) {
  const auto pool = TensorPool::create();  // for the copies on the way
  const TensorPool::Scope scope(pool);
  for (Block& block : blocks_) {
    cancel.check();
    block.query_key_value.prepare_backward(copy);
    block.dense.prepare_backward(copy);
    block.h_to_4h.prepare_backward(copy);
    block.four_h_to_h.prepare_backward(copy);
  }
  output_->prepare_backward(copy);
  pool->trim();
}

at::Tensor GPTNeoX::block_save(const Block& block, const at::Tensor& x, const Pass& pass, int64_t layer,
                               Saved& saved) const {
  const auto norm_saving = [&](const at::Tensor& input, const LayerNorm& ln, at::Tensor& mean, at::Tensor& rstd) {
    at::Tensor out;
    std::tie(out, mean, rstd) =
        at::native_layer_norm(input, {config_.hidden_size}, ln.weight, ln.bias, config_.layer_norm_eps);
    return out;
  };
  saved.x = x;
  saved.qkv = query_key_value(block, norm_saving(x, block.input_norm, saved.mean1, saved.rstd1), pass, layer);
  const at::Tensor middle = block.dense.forward_add(backend().attention(saved.qkv, pass.rows, layer), x);
  saved.middle = config_.parallel_residual ? x : middle;
  saved.up = block.h_to_4h.forward(norm_saving(saved.middle, block.post_attention_norm, saved.mean2, saved.rstd2));
  return middle;
}

// dy [M, H] -> dx [M, H]. In the first block nothing before the keys and values is trainable, so nothing before them is
// computed: the result is undefined.
at::Tensor GPTNeoX::block_backward(const Block& block, const at::Tensor& dy, const Pass& pass, int64_t layer,
                                   const Saved& saved, at::Tensor& grad_prefix) const {
  const auto norm_backward = [&](const at::Tensor& grad, const at::Tensor& input, const at::Tensor& mean,
                                 const at::Tensor& rstd, const LayerNorm& ln) {
    return std::get<0>(at::native_layer_norm_backward(grad, input, {config_.hidden_size}, mean, rstd, ln.weight,
                                                      ln.bias, {true, false, false}));
  };
  const bool first = layer == 0;
  at::Tensor dmiddle = dy;  // gradient of what attention's output was added to
  at::Tensor dx_mlp;
  if (!config_.parallel_residual || !first) {
    const at::Tensor dup =
        backend().activate_backward(block.four_h_to_h.backward(dy), saved.up, config_.activation);  // [M, I]
    dx_mlp =
        norm_backward(block.h_to_4h.backward(dup), saved.middle, saved.mean2, saved.rstd2, block.post_attention_norm);
    if (!config_.parallel_residual) dmiddle = dx_mlp.add_(dy);
  }
  auto gradients = backend().attention_backward(block.dense.backward(dmiddle), saved.qkv, pass.rows, layer, first);
  grad_prefix[layer].copy_(gradients.block);
  if (first) return {};
  rotate(gradients.qkv, pass, true);
  const at::Tensor dnorm = block.query_key_value.backward(gradients.qkv.view({dy.size(0), 3 * config_.hidden_size}));
  at::Tensor dx = norm_backward(dnorm, saved.x, saved.mean1, saved.rstd1, block.input_norm).add_(dmiddle);
  return config_.parallel_residual ? dx.add_(dx_mlp) : dx;
}

LossSum GPTNeoX::output_loss(const at::Tensor& hidden, const std::vector<int64_t>& targets, double scale,
                             at::Tensor* dx, const CancelFlag& cancel) const {
  // Only positions with a target reach the vocabulary.
  std::vector<int64_t> positions;
  std::vector<int64_t> wanted;
  for (size_t i = 0; i < targets.size(); ++i) {
    if (targets[i] == kIgnoredTarget) continue;
    positions.push_back(static_cast<int64_t>(i));
    wanted.push_back(targets[i]);
  }
  const auto count = static_cast<int64_t>(positions.size());
  const at::Tensor index = at::from_blob(positions.data(), {count}, at::kLong).to(hidden.device());
  const at::Tensor selected = count == hidden.size(0) ? hidden : hidden.index_select(0, index);  // [R, H]
  auto [normed, mean, rstd] = at::native_layer_norm(selected, {config_.hidden_size}, final_norm_.weight,
                                                    final_norm_.bias, config_.layer_norm_eps);
  at::Tensor dnormed = dx == nullptr ? at::Tensor() : at::empty_like(normed);
  LossSum sum;
  sum.tokens = count;
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    cancel.check();
    const int64_t rows = std::min(kChunk, count - begin);
    at::Tensor chunk = output_->forward(normed.narrow(0, begin, rows));  // [R, V]
    const double chunk_scale = dx == nullptr ? 0.0 : scale;
    const ChunkLoss part =
        backend().cross_entropy(chunk, {wanted.data() + begin, static_cast<size_t>(rows)}, chunk_scale);
    sum.loss += part.loss;
    sum.correct += part.correct;
    if (dx != nullptr) dnormed.narrow(0, begin, rows).copy_(output_->backward(chunk));
  }
  if (dx != nullptr) {
    const at::Tensor dselected =
        std::get<0>(at::native_layer_norm_backward(dnormed, selected, {config_.hidden_size}, mean, rstd,
                                                   final_norm_.weight, final_norm_.bias, {true, false, false}));
    *dx = count == hidden.size(0) ? dselected : at::zeros_like(hidden).index_copy_(0, index, dselected);
  }
  return sum;
}

LossSum GPTNeoX::loss(const at::Tensor& ids, const std::vector<int64_t>& targets, std::vector<Row>& rows,
                      const CancelFlag& cancel) const {
  const bool training = pool()->held() > 0;
  LossSum sum;
  {
    const TensorPool::Scope scope(pool());
    sum = output_loss(forward(ids, rows, Wanted::kAll, cancel, nullptr), targets, 0.0, nullptr, cancel);
  }
  if (!training) pool()->trim();
  return sum;
}

LossAndGradient GPTNeoX::loss_and_gradient(const at::Tensor& ids, const std::vector<int64_t>& targets,
                                           std::vector<Row>& rows, const BackwardOptions& backward,
                                           const CancelFlag& cancel) const {
  const Pass pass = begin(rows);
  const TensorPool::Scope scope(pool());
  std::vector<Saved> saved(blocks_.size());
  at::Tensor x = embed(ids, rows);
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    cancel.check();
    const auto i = static_cast<size_t>(layer);
    const at::Tensor input = x;
    const at::Tensor middle = block_save(blocks_[i], input, pass, layer, saved[i]);
    x = blocks_[i].four_h_to_h.forward_add(backend().activate(saved[i].up, config_.activation), middle);
    if (!backward.checkpointing) continue;
    saved[i] = Saved();
    saved[i].x = input;
  }
  // Half types would lose small gradients of a mean over many tokens; the sum's gradient divided by a power of two near
  // the count keeps their size in range, and dividing by a power of two rounds nothing.
  const auto count = std::count_if(targets.begin(), targets.end(), [](int64_t t) { return t != kIgnoredTarget; });
  double scale = 1.0;
  while (scale * static_cast<double>(count) > 1.0) scale *= 0.5;
  scale *= backward.loss_scale;
  at::Tensor dy;
  LossAndGradient result;
  result.sum = output_loss(x, targets, scale, &dy, cancel);
  x.reset();
  const int64_t prefix_length = rows.at(0).block->length;
  at::Tensor grad_prefix = at::empty({config_.num_layers, 2, config_.num_heads, prefix_length, config_.head_size},
                                     kv_shape().options.dtype(at::kFloat));
  for (int64_t layer = config_.num_layers; layer-- > 0;) {
    cancel.check();
    const auto i = static_cast<size_t>(layer);
    if (backward.checkpointing) block_save(blocks_[i], at::Tensor(saved[i].x), pass, layer, saved[i]);
    dy = block_backward(blocks_[i], dy, pass, layer, saved[i], grad_prefix);
    saved[i] = Saved();
  }
  result.prefix = grad_prefix.div_(scale);
  return result;
}

}  // namespace neox
