#include "core/model/gpt_neox.h"

#include <ATen/ops/embedding.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/layer_norm.h>

#include <string>
#include <utility>

#include "core/base/error.h"

namespace neox {
namespace {

// Of [M, H] the rows' last tokens, [rows, H].
at::Tensor last_of(const at::Tensor& x, const std::vector<Row>& rows) {
  std::vector<int64_t> last;
  for (const Row& row : rows) last.push_back(row.first + row.tokens - 1);
  return x.index_select(0, at::from_blob(last.data(), {static_cast<int64_t>(last.size())}, at::kLong).to(x.device()));
}

}  // namespace

GPTNeoX::GPTNeoX(const NeoXConfig& config, const std::shared_ptr<const WeightSource>& weights,
                 const ModelOptions& options, const CancelFlag& cancel, const std::function<void(double)>& progress)
    : Model(config, options), config_(config), rotary_(config, options.device) {
  const auto norm = [&](const std::string& name) {
    return LayerNorm{weights->get(name + ".weight").clone(), weights->get(name + ".bias").clone()};
  };
  const auto linear = [&](const std::string& name, bool bias) {
    return FrozenLinear(weights, name + ".weight", bias ? name + ".bias" : "", options.packing());
  };
  const double steps = static_cast<double>(config.num_layers) + 1.0;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    cancel.check();
    const std::string layer = "gpt_neox.layers." + std::to_string(i) + ".";
    blocks_.push_back({norm(layer + "input_layernorm"), norm(layer + "post_attention_layernorm"),
                       linear(layer + "attention.query_key_value", config.attention_bias),
                       linear(layer + "attention.dense", config.attention_bias),
                       linear(layer + "mlp.dense_h_to_4h", true), linear(layer + "mlp.dense_4h_to_h", true)});
    progress(static_cast<double>(i + 1) / steps);
  }
  cancel.check();
  // A row a token is all that is read of it: mapped from its file it costs little memory and loses nothing, in whatever
  // dtype it is.
  embedding_ =
      options.precision.int8 ? weights->stored("gpt_neox.embed_in.weight") : weights->get("gpt_neox.embed_in.weight");
  if (config.learned_positions) positions_ = weights->get("gpt_neox.embed_positions.weight");
  final_norm_ = norm("gpt_neox.final_layer_norm");
  output_ = std::make_unique<FrozenLinear>(weights, "embed_out.weight", "", options.packing());
  progress(1.0);
}

int64_t GPTNeoX::weight_bytes() const {
  int64_t bytes = static_cast<int64_t>(embedding_.nbytes()) + output_->memory_bytes();
  if (positions_.defined()) bytes += static_cast<int64_t>(positions_.nbytes());
  for (const Block& b : blocks_) {
    bytes += b.query_key_value.memory_bytes() + b.dense.memory_bytes() + b.h_to_4h.memory_bytes() +
             b.four_h_to_h.memory_bytes();
  }
  return bytes;
}

int64_t GPTNeoX::backward_bytes(bool copy) const {
  int64_t bytes = output_->backward_bytes(copy);
  for (const Block& b : blocks_) {
    bytes += b.query_key_value.backward_bytes(copy) + b.dense.backward_bytes(copy) + b.h_to_4h.backward_bytes(copy) +
             b.four_h_to_h.backward_bytes(copy);
  }
  return bytes;
}

at::Tensor GPTNeoX::embed(const at::Tensor& ids, const std::vector<Row>& rows) const {
  at::Tensor x = at::embedding(embedding_, ids).to(options().precision.activations);
  if (!positions_.defined()) return x;
  for (const Row& row : rows) {
    x.narrow(0, row.first, row.tokens).add_(positions_.narrow(0, row.start_position(), row.tokens));
  }
  return x;
}

void GPTNeoX::rotate(at::Tensor& qkv, const Pass& pass, bool inverse) const {
  if (config_.rotary_dims > 0) backend().rotate(qkv, pass.rows, pass.angles, inverse);
}

at::Tensor GPTNeoX::norm(const at::Tensor& x, const LayerNorm& ln) const {
  return at::layer_norm(x, {config_.hidden_size}, ln.weight, ln.bias, config_.layer_norm_eps);
}

// mlp(x) + residual
at::Tensor GPTNeoX::mlp(const Block& block, const at::Tensor& x, const at::Tensor& residual) const {
  const bool fused = config_.activation == Activation::kGelu || config_.activation == Activation::kGeluTanh;
  const at::Tensor up = fused ? block.h_to_4h.forward_gelu(x, config_.activation == Activation::kGeluTanh)  // [M, I]
                              : backend().activate(block.h_to_4h.forward(x), config_.activation);
  return block.four_h_to_h.forward_add(up, residual);
}

at::Tensor GPTNeoX::query_key_value(const Block& block, const at::Tensor& normed, const Pass& pass,
                                    int64_t layer) const {
  at::Tensor qkv =
      block.query_key_value.forward(normed).view({normed.size(0), config_.num_heads, 3, config_.head_size});
  rotate(qkv, pass, false);
  backend().store(qkv, pass.rows, layer);
  return qkv;
}

at::Tensor GPTNeoX::block_forward(const Block& block, const at::Tensor& x, const Pass& pass, int64_t layer,
                                  Wanted wanted) const {
  const at::Tensor qkv = query_key_value(block, norm(x, block.input_norm), pass, layer);
  const std::vector<Row>& rows = pass.rows;
  if (wanted == Wanted::kAll || x.size(0) == static_cast<int64_t>(rows.size()))
    return block_rest(block, backend().attention(qkv, rows, layer), x);
  // Each row's last token, which all others are the past of.
  std::vector<Row> ends;
  std::vector<Past> pasts(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    pasts[i] = *row.past;
    pasts[i].length += row.tokens - 1;
    ends.push_back({row.first + row.tokens - 1, 1, row.block, &pasts[i]});
  }
  return block_rest(block, last_of(backend().attention(qkv, ends, layer), rows), last_of(x, rows));
}

at::Tensor GPTNeoX::block_rest(const Block& block, const at::Tensor& attended, const at::Tensor& x) const {
  const at::Tensor middle = block.dense.forward_add(attended, x);  // [M, H]
  // Parallel residual (GPT-J): attention and MLP both read x, and both are added to it.
  return mlp(block, norm(config_.parallel_residual ? x : middle, block.post_attention_norm), middle);
}

GPTNeoX::Pass GPTNeoX::begin(std::vector<Row>& rows) const {
  Pass pass{rows, {}};
  for (const Row& row : rows) {
    if (row.start_position() + row.tokens <= config_.max_positions) {
      pass.angles.push_back(rotary_.angles(row.start_position(), row.tokens));
      continue;
    }
    throw CoreError("NEOX_TOO_LONG", "A row of " + std::to_string(row.start_position() + row.tokens) +
                                         " positions (prefix included) is longer than the model's " +
                                         std::to_string(config_.max_positions));
  }
  return pass;
}

at::Tensor GPTNeoX::forward(const at::Tensor& ids, std::vector<Row>& rows, Wanted wanted, const CancelFlag& cancel,
                            HiddenLayer* layer) const {
  const Pass pass = begin(rows);
  for (const Row& row : rows) {
    if (row.past != nullptr) row.past->claim(kv_shape(), row.tokens);
  }
  at::Tensor x = embed(ids, rows);
  // What the layer behind the last block has is of all tokens.
  const bool whole = layer != nullptr && layer->layer == config_.num_layers;
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    cancel.check();
    if (layer != nullptr && layer->layer == i) layer->states = x;
    x = block_forward(blocks_[static_cast<size_t>(i)], x, pass, i,
                      i + 1 < config_.num_layers || whole ? Wanted::kAll : wanted);
  }
  if (whole) layer->states = norm(x, final_norm_);
  for (const Row& row : rows) {
    if (row.past != nullptr) row.past->length += row.tokens;
  }
  if (whole && wanted == Wanted::kLast) return last_of(x, rows);
  return x;
}

at::Tensor GPTNeoX::logits(const at::Tensor& hidden) const {
  return output_->forward(norm(hidden, final_norm_)).to(at::kFloat);
}

}  // namespace neox
