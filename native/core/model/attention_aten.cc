#include "core/model/attention_aten.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>

#include <cmath>
#include <limits>

namespace neox::attention_aten {
namespace {

// [N, T, S]; mask[t][s] is true where query t must not look: at s > before + t.
at::Tensor probabilities(const at::Tensor& q, const at::Tensor& k) {
  const int64_t tokens = q.size(1);
  const int64_t keys = k.size(1);
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
  at::Tensor scores = at::matmul(q.to(at::kFloat), k.to(at::kFloat).transpose(1, 2)).mul_(scale);
  const at::Tensor hidden = at::ones({tokens, keys}, q.options().dtype(at::kBool)).triu(keys - tokens + 1);
  return at::softmax(scores.masked_fill_(hidden, -std::numeric_limits<float>::infinity()), -1);
}

}  // namespace

at::Tensor forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  return at::matmul(probabilities(q, k), v.to(at::kFloat));
}

Gradients backward(const at::Tensor& grad_out, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
  const at::Tensor p = probabilities(q, k);      // [N, T, S]
  const at::Tensor g = grad_out.to(at::kFloat);  // [N, T, D]
  at::Tensor dp = at::matmul(g, v.to(at::kFloat).transpose(1, 2));
  const at::Tensor mean = (p * dp).sum(-1, true);           // [N, T, 1]
  const at::Tensor ds = dp.sub_(mean).mul_(p).mul_(scale);  // in place: [N, T, S] is the largest tensor there is
  return {at::matmul(ds, k.to(at::kFloat)), at::matmul(ds.transpose(1, 2), q.to(at::kFloat)),
          at::matmul(p.transpose(1, 2), g)};
}

void rotate(at::Tensor x, const at::Tensor& cos, const at::Tensor& sin, bool inverse) {
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

}  // namespace neox::attention_aten
