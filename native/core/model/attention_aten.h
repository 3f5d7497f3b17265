// The ATen path of Attention: one row at a time with operators that every device has, all arithmetic in float32.
#pragma once

#include <ATen/core/Tensor.h>

namespace neox::attention_aten {

// Queries [N, T, D] against keys and values [N, S, D] (S = before + T): query t sees the first before + t + 1 keys. ->
// [N, T, D] float32
at::Tensor forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

struct Gradients {
  at::Tensor q, k, v;  // float32, shaped as the inputs
};
Gradients backward(const at::Tensor& grad_out, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

// Rotates the first n dimensions of x [T, heads, ..., D] in place; cos and sin are [T, n/2].
void rotate(at::Tensor x, const at::Tensor& cos, const at::Tensor& sin, bool inverse);

}  // namespace neox::attention_aten
