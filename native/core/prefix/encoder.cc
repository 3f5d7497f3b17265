#include "core/prefix/encoder.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>

#include "core/one_thread.h"

namespace neox {
namespace {
enum Index : size_t { kEmbedding, kInWeight, kInBias, kOutWeight, kOutBias };
}

PrefixEncoder::PrefixEncoder(const EncoderOptions& options)
    : options_(options), generator_(at::make_generator<at::CPUGeneratorImpl>(options.seed)) {
  const auto& o = options_;
  int64_t size = 0;
  const auto add = [&](const char* name, std::vector<int64_t> shape) {
    int64_t count = 1;
    for (const int64_t n : shape) count *= n;
    parameters_.push_back({name, std::move(shape), size});
    size += count;
  };
  add("prefix_wte.weight", {o.prefix_length, o.input_dim});
  add("prefix_mlp.0.weight", {o.hidden_dim, o.input_dim});
  add("prefix_mlp.0.bias", {o.hidden_dim});
  add("prefix_mlp.2.weight", {o.output_dim, o.hidden_dim});
  add("prefix_mlp.2.bias", {o.output_dim});
  flat_ = at::empty({size}, at::kFloat);
  decayed_ = at::ones_like(flat_);
  view(decayed_, kInBias).zero_();
  view(decayed_, kOutBias).zero_();

  view(flat_, kEmbedding).normal_(0.0, 1.0, generator_);
  const double in_bound = 1.0 / std::sqrt(static_cast<double>(o.input_dim));
  const double out_bound = 1.0 / std::sqrt(static_cast<double>(o.hidden_dim));
  view(flat_, kInWeight).uniform_(-in_bound, in_bound, generator_);
  view(flat_, kInBias).uniform_(-in_bound, in_bound, generator_);
  view(flat_, kOutWeight).uniform_(-out_bound, out_bound, generator_);
  view(flat_, kOutBias).uniform_(-out_bound, out_bound, generator_);
}

at::Tensor PrefixEncoder::view(const at::Tensor& buffer, size_t parameter) const {
  const Parameter& p = parameters_.at(parameter);
  int64_t count = 1;
  for (const int64_t n : p.shape) count *= n;
  return buffer.narrow(0, p.offset, count).view(p.shape);
}

std::vector<std::pair<std::string, at::Tensor>> PrefixEncoder::views(const at::Tensor& buffer) const {
  std::vector<std::pair<std::string, at::Tensor>> named;
  for (size_t i = 0; i < parameters_.size(); ++i) named.emplace_back(parameters_[i].name, view(buffer, i));
  return named;
}

at::Tensor PrefixEncoder::forward(bool training) {
  at::Tensor hidden;
  at::Tensor out;
  on_one_thread([&] {
    hidden =
        at::tanh(at::linear(view(flat_, kEmbedding), view(flat_, kInWeight), view(flat_, kInBias)));  // [P, hidden]
    out = at::linear(hidden, view(flat_, kOutWeight), view(flat_, kOutBias));                         // [P, L*2*H]
  });
  if (!training) return out;
  hidden_ = hidden;
  keep_ = at::Tensor();
  if (options_.dropout > 0.0) {
    const double keep = 1.0 - options_.dropout;
    keep_ = at::empty_like(out).bernoulli_(keep, generator_).div_(keep);
    out = out * keep_;
  }
  return out;
}

at::Tensor PrefixEncoder::backward(const at::Tensor& grad) const {
  at::Tensor grads = at::empty_like(flat_);
  const at::Tensor dout = keep_.defined() ? grad * keep_ : grad;  // [P, L*2*H]
  on_one_thread([&] {
    view(grads, kOutWeight).copy_(at::matmul(dout.t(), hidden_));
    view(grads, kOutBias).copy_(at::sum(dout, 0));
    const at::Tensor dhidden = at::matmul(dout, view(flat_, kOutWeight));  // [P, hidden]
    const at::Tensor dpre = dhidden * (1.0 - hidden_ * hidden_);
    view(grads, kInWeight).copy_(at::matmul(dpre.t(), view(flat_, kEmbedding)));
    view(grads, kInBias).copy_(at::sum(dpre, 0));
    view(grads, kEmbedding).copy_(at::matmul(dpre, view(flat_, kInWeight)));
  });
  return grads;
}

}  // namespace neox
