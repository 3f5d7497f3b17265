#include "core/training/encoder.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/tanh.h>

#include <cmath>

#include "core/base/one_thread.h"

namespace neox {
namespace {

enum Index : size_t { kEmbedding, kInWeight, kInBias, kOutWeight, kOutBias };

// The finaliser of SplitMix64 (Steele, Lea & Flood 2014): every bit of the result depends on every bit of x.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

at::Generator dropout_generator(uint64_t seed, int64_t step) {
  return at::make_generator<at::CPUGeneratorImpl>(mix(mix(seed) ^ static_cast<uint64_t>(step)));
}

}  // namespace

PrefixEncoder::PrefixEncoder(const EncoderOptions& options) : options_(options) {
  const auto& o = options_;
  int64_t size = 0;
  const auto add = [&](const char* name, std::vector<int64_t> shape) {
    int64_t count = 1;
    for (const int64_t n : shape) count *= n;
    parameters_.push_back({name, std::move(shape), size, count});
    size += count;
  };
  add("prefix_wte.weight", {o.prefix_length, o.projection ? o.input_dim : o.output_dim});
  if (o.projection) {
    add("prefix_mlp.0.weight", {o.hidden_dim, o.input_dim});
    add("prefix_mlp.0.bias", {o.hidden_dim});
    add("prefix_mlp.2.weight", {o.output_dim, o.hidden_dim});
    add("prefix_mlp.2.bias", {o.output_dim});
  }
  flat_ = at::empty({size}, at::kFloat);

  auto generator = at::make_generator<at::CPUGeneratorImpl>(o.seed);
  view(flat_, kEmbedding).normal_(0.0, 1.0, generator);
  if (!o.projection) return;
  const double in_bound = 1.0 / std::sqrt(static_cast<double>(o.input_dim));
  const double out_bound = 1.0 / std::sqrt(static_cast<double>(o.hidden_dim));
  view(flat_, kInWeight).uniform_(-in_bound, in_bound, generator);
  view(flat_, kInBias).uniform_(-in_bound, in_bound, generator);
  view(flat_, kOutWeight).uniform_(-out_bound, out_bound, generator);
  view(flat_, kOutBias).uniform_(-out_bound, out_bound, generator);
}

at::Tensor PrefixEncoder::view(const at::Tensor& buffer, size_t parameter) const {
  const Parameter& p = parameters_.at(parameter);
  return buffer.narrow(0, p.offset, p.count).view(p.shape);
}

std::vector<std::pair<std::string, at::Tensor>> PrefixEncoder::views(const at::Tensor& buffer) const {
  std::vector<std::pair<std::string, at::Tensor>> named;
  for (size_t i = 0; i < parameters_.size(); ++i) named.emplace_back(parameters_[i].name, view(buffer, i));
  return named;
}

std::vector<std::pair<int64_t, int64_t>> PrefixEncoder::weights() const {
  std::vector<std::pair<int64_t, int64_t>> parts;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (i != kInBias && i != kOutBias) parts.emplace_back(parameters_[i].offset, parameters_[i].count);
  }
  return parts;
}

PrefixEncoder::Pass PrefixEncoder::forward(std::optional<int64_t> dropout_step) const {
  Pass pass;
  if (options_.projection) {
    on_one_thread([&] {
      pass.hidden =
          at::tanh(at::linear(view(flat_, kEmbedding), view(flat_, kInWeight), view(flat_, kInBias)));  // [P, hidden]
      pass.output = at::linear(pass.hidden, view(flat_, kOutWeight), view(flat_, kOutBias));            // [P, L*2*H]
    });
  } else {
    pass.output = view(flat_, kEmbedding).clone();  // training goes on while the caller reads it
  }
  if (dropout_step && options_.dropout > 0.0) {
    const double keep = 1.0 - options_.dropout;
    pass.keep =
        at::empty_like(pass.output).bernoulli_(keep, dropout_generator(options_.seed, *dropout_step)).div_(keep);
    pass.output.mul_(pass.keep);
  }
  return pass;
}

at::Tensor PrefixEncoder::backward(const Pass& pass, const at::Tensor& grad) const {
  at::Tensor grads = at::empty_like(flat_);
  const at::Tensor dout = pass.keep.defined() ? grad * pass.keep : grad;  // [P, L*2*H]
  if (!options_.projection) {
    view(grads, kEmbedding).copy_(dout);
    return grads;
  }
  on_one_thread([&] {
    view(grads, kOutWeight).copy_(at::matmul(dout.t(), pass.hidden));
    view(grads, kOutBias).copy_(at::sum(dout, 0));
    const at::Tensor dhidden = at::matmul(dout, view(flat_, kOutWeight));  // [P, hidden]
    const at::Tensor dpre = dhidden * (1.0 - pass.hidden * pass.hidden);
    view(grads, kInWeight).copy_(at::matmul(dpre.t(), view(flat_, kEmbedding)));
    view(grads, kInBias).copy_(at::sum(dpre, 0));
    view(grads, kEmbedding).copy_(at::matmul(dpre, view(flat_, kInWeight)));
  });
  return grads;
}

}  // namespace neox
