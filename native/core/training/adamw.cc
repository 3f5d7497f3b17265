#include "core/training/adamw.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <utility>

#include "core/base/one_thread.h"

namespace neox {

AdamW::AdamW(const AdamWOptions& options, const at::Tensor& parameters,
             std::vector<std::pair<int64_t, int64_t>> decayed)
    : options_(options),
      decayed_(std::move(decayed)),
      state_{0, at::zeros_like(parameters), at::zeros_like(parameters)} {}

void AdamW::step(at::Tensor& parameters, const at::Tensor& gradients, double learning_rate) {
  const auto t = static_cast<double>(++state_.steps);
  on_one_thread([&] {
    if (options_.weight_decay != 0.0) {
      const double factor = 1.0 - learning_rate * options_.weight_decay;
      for (const auto& [first, count] : decayed_) parameters.narrow(0, first, count).mul_(factor);
    }
    state_.mean.lerp_(gradients, 1.0 - options_.beta1);
    state_.square.mul_(options_.beta2).addcmul_(gradients, gradients, 1.0 - options_.beta2);
    const double correction1 = 1.0 - std::pow(options_.beta1, t);
    const double correction2 = 1.0 - std::pow(options_.beta2, t);
    const at::Tensor denominator = state_.square.sqrt().div_(std::sqrt(correction2)).add_(options_.epsilon);
    parameters.addcdiv_(state_.mean, denominator, -learning_rate / correction1);
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
