#include "core/training/adamw.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <utility>

#include "core/one_thread.h"

namespace neox {

AdamW::AdamW(const AdamWOptions& options, at::Tensor decayed)
    : options_(options),
      decayed_(std::move(decayed)),
      mean_(at::zeros_like(decayed_)),
      square_(at::zeros_like(decayed_)) {}

void AdamW::step(at::Tensor& parameters, const at::Tensor& gradients, double learning_rate) {
  ++steps_;
  const auto t = static_cast<double>(steps_);
  on_one_thread([&] {
    if (options_.weight_decay != 0.0) parameters.mul_(1.0 - learning_rate * options_.weight_decay * decayed_);
    mean_.lerp_(gradients, 1.0 - options_.beta1);
    square_.mul_(options_.beta2).addcmul_(gradients, gradients, 1.0 - options_.beta2);
    const double correction1 = 1.0 - std::pow(options_.beta1, t);
    const double correction2 = 1.0 - std::pow(options_.beta2, t);
    const at::Tensor denominator = square_.sqrt().div_(std::sqrt(correction2)).add_(options_.epsilon);
    parameters.addcdiv_(mean_, denominator, -learning_rate / correction1);
  });
}

double clip_gradient_norm(at::Tensor& gradients, double limit) {
  double norm = 0.0;
  on_one_thread([&] { norm = gradients.norm().item<double>(); });
  if (limit > 0.0) {
    const double factor = limit / (norm + 1e-6);
    if (factor < 1.0) gradients.mul_(factor);
  }
  return norm;
}

}  // namespace neox
