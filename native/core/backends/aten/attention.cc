// Attention in plain operators: one row at a time, all arithmetic in float32.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>

#include "core/backends/aten/aten_backend.h"

namespace neox {
namespace {

// Queries [N, T, D] against keys [N, S, D] (S = before + T): query t sees the first before + t + 1 keys. -> [N, T, S]
at::Tensor probabilities(const at::Tensor& q, const at::Tensor& k) {
  const int64_t tokens = q.size(1);
  const int64_t keys = k.size(1);
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
  at::Tensor scores = at::matmul(q.to(at::kFloat), k.to(at::kFloat).transpose(1, 2)).mul_(scale);
  const at::Tensor hidden = at::ones({tokens, keys}, q.options().dtype(at::kBool)).triu(keys - tokens + 1);
  return at::softmax(scores.masked_fill_(hidden, -std::numeric_limits<float>::infinity()), -1);
}

struct Gradients {
  at::Tensor q, k, v;  // float32, shaped as the inputs
};

Gradients gradients(const at::Tensor& grad_out, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
  const at::Tensor p = probabilities(q, k);      // [N, T, S]
  const at::Tensor g = grad_out.to(at::kFloat);  // [N, T, D]
  at::Tensor dp = at::matmul(g, v.to(at::kFloat).transpose(1, 2));
  const at::Tensor mean = (p * dp).sum(-1, true);           // [N, T, 1]
  const at::Tensor ds = dp.sub_(mean).mul_(p).mul_(scale);  // in place: [N, T, S] is the largest tensor there is
  return {at::matmul(ds, k.to(at::kFloat)), at::matmul(ds.transpose(1, 2), q.to(at::kFloat)),
          at::matmul(p.transpose(1, 2), g)};
}

// Rotates the first n dimensions of x [T, heads, ..., D] in place; cos and sin are [T, n/2].
void rotate_row(at::Tensor x, const at::Tensor& cos, const at::Tensor& sin, bool inverse) {
  const int64_t half = cos.size(1);
  at::Tensor first = x.narrow(-1, 0, half);
  at::Tensor second = x.narrow(-1, half, half);
  // [T, n/2] -> [T, 1, ..., n/2]
  std::vector<int64_t> shape(static_cast<size_t>(x.dim()), 1);
  shape.front() = cos.size(0);
  shape.back() = half;
  const at::Tensor c = cos.view(shape);
  const at::Tensor s = inverse ? -sin.view(shape) : sin.view(shape);
  const at::Tensor a = first.to(at::kFloat);
  const at::Tensor b = second.to(at::kFloat);
  // Both before either is written: a float32 `a` is `first` itself.
  const at::Tensor rotated_first = a * c - b * s;
  const at::Tensor rotated_second = b * c + a * s;
  first.copy_(rotated_first);
  second.copy_(rotated_second);
}

// [N, P + length, D] of the keys (which 0) or the values (1) that a row sees.
at::Tensor joined(const at::Tensor& text, const Row& row, int64_t layer, int64_t which) {
  if (row.block == nullptr) return text;
  return at::cat({row.block->keys_values[layer][which], text}, 1);
}

struct RowViews {
  at::Tensor q, k, v;  // [N, T, D]; [N, S, D]; [N, S, D]
};

RowViews views_of(const at::Tensor& qkv, const Row& row, int64_t layer) {
  const at::Tensor own = qkv.narrow(0, row.first, row.tokens);  // [T, N, 3, D]
  const auto part = [&](int64_t which) { return own.select(2, which).transpose(0, 1); };
  if (row.past == nullptr) return {part(0), joined(part(1), row, layer, 0), joined(part(2), row, layer, 1)};
  const at::Tensor stored =
      row.past->storage->keys_values[layer].narrow(2, 0, row.past->length + row.tokens);  // [2, N, S, D]
  return {part(0), joined(stored[0], row, layer, 0), joined(stored[1], row, layer, 1)};
}

}  // namespace

void AtenBackend::rotate(at::Tensor& qkv, const std::vector<Row>& rows, const std::vector<RotaryAngles>& angles,
                         bool inverse) const {
  for (size_t i = 0; i < rows.size(); ++i) {
    const at::Tensor own = qkv.narrow(0, rows[i].first, rows[i].tokens);  // [T, N, 3, D]
    rotate_row(own.narrow(2, 0, 2), angles[i].cos.narrow(0, angles[i].line, rows[i].tokens),
               angles[i].sin.narrow(0, angles[i].line, rows[i].tokens), inverse);
  }
}

void AtenBackend::store(const at::Tensor& qkv, const std::vector<Row>& rows, int64_t layer) const {
  for (const Row& row : rows) {
    if (row.past == nullptr) continue;
    const at::Tensor fresh = qkv.narrow(0, row.first, row.tokens).narrow(2, 1, 2);  // [T, N, 2, D]
    row.past->storage->keys_values[layer]
        .narrow(2, row.past->length, row.tokens)
        .copy_(fresh.permute({2, 1, 0, 3}));  // [2, N, T, D]
  }
}

at::Tensor AtenBackend::attention(const at::Tensor& qkv, const std::vector<Row>& rows, int64_t layer) const {
  const int64_t heads = qkv.size(1);
  const int64_t head_size = qkv.size(3);
  at::Tensor out = at::empty({qkv.size(0), heads * head_size}, qkv.options());
  for (const Row& row : rows) {
    const RowViews view = views_of(qkv, row, layer);
    out.narrow(0, row.first, row.tokens)
        .view({row.tokens, heads, head_size})
        .copy_(at::matmul(probabilities(view.q, view.k), view.v.to(at::kFloat)).transpose(0, 1));
  }
  return out;
}

AttentionGradients AtenBackend::attention_backward(const at::Tensor& grad_out, const at::Tensor& qkv,
                                                   const std::vector<Row>& rows, int64_t layer, bool block_only) const {
  const int64_t heads = qkv.size(1);
  const int64_t head_size = qkv.size(3);
  const int64_t length = rows.empty() || rows[0].block == nullptr ? 0 : rows[0].block->length;
  AttentionGradients result;
  if (!block_only) result.qkv = at::empty_like(qkv);
  result.block = at::zeros({2, heads, length, head_size}, qkv.options().dtype(at::kFloat));
  for (const Row& row : rows) {
    const RowViews view = views_of(qkv, row, layer);
    const at::Tensor grad =
        grad_out.narrow(0, row.first, row.tokens).view({row.tokens, heads, head_size}).transpose(0, 1);
    const Gradients g = gradients(grad, view.q, view.k, view.v);
    result.block[0].add_(g.k.narrow(1, 0, length));
    result.block[1].add_(g.v.narrow(1, 0, length));
    if (block_only) continue;
    at::Tensor own = result.qkv.narrow(0, row.first, row.tokens);  // [T, N, 3, D]
    own.select(2, 0).copy_(g.q.transpose(0, 1));
    own.select(2, 1).copy_(g.k.narrow(1, length, row.tokens).transpose(0, 1));
    own.select(2, 2).copy_(g.v.narrow(1, length, row.tokens).transpose(0, 1));
  }
  return result;
}

}  // namespace neox
