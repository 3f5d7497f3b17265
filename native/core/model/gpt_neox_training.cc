// The training half of GPTNeoX: a forward pass that keeps what the backward pass needs, the loss fused with the output
// projection, and the backward pass to the prefix's keys and values. There are no weight gradients anywhere.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/add.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/native_layer_norm.h>
#include <ATen/ops/native_layer_norm_backward.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <tuple>

#include "core/kernels/element.h"
#include "core/kernels/kernels.h"
#include "core/model/activation.h"
#include "core/model/gpt_neox.h"

namespace neox {
namespace {

// Rows of logits that exist at a time: the memory is kChunk * V elements, whatever the batch.
constexpr int64_t kChunk = 128;

struct ChunkLoss {
  double loss = 0.0;
  int64_t correct = 0;
};

// Logits [R, V] of one chunk -> its loss; with `scale` > 0 the logits become the gradient of the loss times scale.
ChunkLoss chunk_loss_kernels(at::Tensor& logits, const int64_t* targets, double scale) {
  const int64_t rows = logits.size(0);
  const int64_t vocab = logits.size(1);
  std::vector<kernels::LossResult> results(static_cast<size_t>(rows));
  auto* data = static_cast<char*>(logits.mutable_data_ptr());
  const auto element = kernels::element_of(logits.scalar_type());
  const int64_t bytes = vocab * logits.element_size();
  at::parallel_for(0, rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      results[static_cast<size_t>(r)] =
          kernels::kernels().cross_entropy(element, data + r * bytes, vocab, targets[r], static_cast<float>(scale));
    }
  });
  ChunkLoss sum;
  for (const auto& result : results) {
    sum.loss += result.loss;
    sum.correct += result.correct ? 1 : 0;
  }
  return sum;
}

ChunkLoss chunk_loss_aten(at::Tensor& logits, const at::Tensor& targets, double scale) {
  const at::Tensor index = targets.unsqueeze(1);  // [R, 1]
  const at::Tensor log_probs = at::log_softmax(logits, -1, at::kFloat);
  ChunkLoss sum;
  sum.loss = -log_probs.gather(1, index).sum(at::kDouble).item<double>();
  sum.correct = at::argmax(logits, -1).eq(targets).sum().item<int64_t>();
  if (scale > 0.0) {
    at::Tensor grad = log_probs.exp();
    grad.scatter_add_(1, index, at::zeros({index.size(0), 1}, grad.options()).sub_(1.0));
    logits = grad.mul_(scale).to(logits.scalar_type());
  }
  return sum;
}

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

at::Tensor GPTNeoX::block_save(const Block& block, const at::Tensor& x, const std::vector<Row>& rows, int64_t layer,
                               Saved& saved) const {
  const auto norm_saving = [&](const at::Tensor& input, const LayerNorm& ln, at::Tensor& mean, at::Tensor& rstd) {
    at::Tensor out;
    std::tie(out, mean, rstd) =
        at::native_layer_norm(input, {config_.hidden_size}, ln.weight, ln.bias, config_.layer_norm_eps);
    return out;
  };
  saved.x = x;
  saved.qkv = block.query_key_value.forward(norm_saving(x, block.input_norm, saved.mean1, saved.rstd1))
                  .view({x.size(0), config_.num_heads, 3, config_.head_size});
  attention_->rotate_and_store(saved.qkv, rows, layer);
  const at::Tensor middle = block.dense.forward_add(attention_->forward(saved.qkv, rows, layer), x);
  saved.middle = config_.parallel_residual ? x : middle;
  saved.up = block.h_to_4h.forward(norm_saving(saved.middle, block.post_attention_norm, saved.mean2, saved.rstd2));
  return middle;
}

// dy [M, H] -> dx [M, H]. In the first block nothing before the keys and values is trainable, so nothing before them is
// computed: the result is undefined.
at::Tensor GPTNeoX::block_backward(const Block& block, const at::Tensor& dy, const std::vector<Row>& rows,
                                   int64_t layer, const Saved& saved, at::Tensor& grad_prefix) const {
  const auto norm_backward = [&](const at::Tensor& grad, const at::Tensor& input, const at::Tensor& mean,
                                 const at::Tensor& rstd, const LayerNorm& ln) {
    return std::get<0>(at::native_layer_norm_backward(grad, input, {config_.hidden_size}, mean, rstd, ln.weight,
                                                      ln.bias, {true, false, false}));
  };
  const bool first = layer == 0;
  at::Tensor dmiddle = dy;  // gradient of what attention's output was added to
  at::Tensor dx_mlp;
  if (!config_.parallel_residual || !first) {
    const at::Tensor dup = activate_backward(block.four_h_to_h.backward(dy), saved.up, config_.activation,
                                             options_.use_kernels());  // [M, I]
    dx_mlp =
        norm_backward(block.h_to_4h.backward(dup), saved.middle, saved.mean2, saved.rstd2, block.post_attention_norm);
    if (!config_.parallel_residual) dmiddle = dx_mlp.add_(dy);
  }
  const auto gradients = attention_->backward(block.dense.backward(dmiddle), saved.qkv, rows, layer, first);
  grad_prefix[layer].copy_(gradients.prefix);
  if (first) return {};
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
  const at::Tensor index = at::from_blob(positions.data(), {count}, at::kLong).to(options_.device);
  const at::Tensor wanted_tensor = at::from_blob(wanted.data(), {count}, at::kLong).to(options_.device);
  const at::Tensor selected = count == hidden.size(0) ? hidden : hidden.index_select(0, index);  // [R, H]
  auto [normed, mean, rstd] = at::native_layer_norm(selected, {config_.hidden_size}, final_norm_.weight,
                                                    final_norm_.bias, config_.layer_norm_eps);
  const bool use_kernels = options_.use_kernels();
  at::Tensor dnormed = dx == nullptr ? at::Tensor() : at::empty_like(normed);
  LossSum sum;
  sum.tokens = count;
  for (int64_t begin = 0; begin < count; begin += kChunk) {
    cancel.check();
    const int64_t rows = std::min(kChunk, count - begin);
    at::Tensor chunk = output_->forward(normed.narrow(0, begin, rows));  // [R, V]
    const double chunk_scale = dx == nullptr ? 0.0 : scale;
    const ChunkLoss part = use_kernels ? chunk_loss_kernels(chunk, wanted.data() + begin, chunk_scale)
                                       : chunk_loss_aten(chunk, wanted_tensor.narrow(0, begin, rows), chunk_scale);
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
  const bool training = pool_->held() > 0;
  LossSum sum;
  {
    const TensorPool::Scope scope(pool_);
    sum = output_loss(forward(ids, rows, Wanted::kAll, cancel), targets, 0.0, nullptr, cancel);
  }
  if (!training) pool_->trim();
  return sum;
}

GPTNeoX::LossAndGradient GPTNeoX::loss_and_gradient(const at::Tensor& ids, const std::vector<int64_t>& targets,
                                                    std::vector<Row>& rows, const BackwardOptions& backward,
                                                    const CancelFlag& cancel) const {
  check_positions(rows);
  const TensorPool::Scope scope(pool_);
  std::vector<Saved> saved(blocks_.size());
  at::Tensor x = embed(ids);
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    cancel.check();
    const auto i = static_cast<size_t>(layer);
    const at::Tensor input = x;
    const at::Tensor middle = block_save(blocks_[i], input, rows, layer, saved[i]);
    x = blocks_[i].four_h_to_h.forward_add(activate(saved[i].up, config_.activation, options_.use_kernels()), middle);
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
                                     shape_.options.dtype(at::kFloat));
  for (int64_t layer = config_.num_layers; layer-- > 0;) {
    cancel.check();
    const auto i = static_cast<size_t>(layer);
    if (backward.checkpointing) block_save(blocks_[i], at::Tensor(saved[i].x), rows, layer, saved[i]);
    dy = block_backward(blocks_[i], dy, rows, layer, saved[i], grad_prefix);
    saved[i] = Saved();
  }
  result.prefix = grad_prefix.div_(scale);
  return result;
}

}  // namespace neox
