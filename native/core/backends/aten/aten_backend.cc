#include "core/backends/aten/aten_backend.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/erf.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/hardswish.h>
#include <ATen/ops/hardswish_backward.h>
#include <ATen/ops/hardtanh_backward.h>
#include <ATen/ops/leaky_relu.h>
#include <ATen/ops/leaky_relu_backward.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mish.h>
#include <ATen/ops/mish_backward.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/sigmoid_backward.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/softplus.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/tanh_backward.h>
#include <ATen/ops/threshold_backward.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <numbers>
#include <utility>

#include "core/base/error.h"

namespace neox {
namespace {

constexpr double kQuick = 1.702;  // quick_gelu(x) = x * sigmoid(1.702 x)
constexpr double kLeak = 0.01;    // slope of leaky_relu below 0
constexpr double kLaplaceMean = 0.707107;
constexpr double kLaplaceWidth = 0.282095 * std::numbers::sqrt2;

class AtenWeights final : public FrozenWeights {
 public:
  explicit AtenWeights(at::Tensor weight) : weight_(std::move(weight)) {}

  at::Tensor multiply(const at::Tensor& x, const std::optional<at::Tensor>& bias, Epilogue epilogue,
                      const at::Tensor* residual) const override {
    at::Tensor y = at::linear(x, weight_, bias);
    if (residual != nullptr) return y.add_(*residual);
    return epilogue == Epilogue::kNothing ? y : at::gelu(y, epilogue == Epilogue::kGeluTanh ? "tanh" : "none");
  }
  bool transposes() const override { return true; }
  at::Tensor multiply_transposed(const at::Tensor& dy) const override { return at::matmul(dy, weight_); }
  int64_t bytes() const override { return static_cast<int64_t>(weight_.nbytes()); }

 private:
  at::Tensor weight_;  // [out, in], as it was given
};

}  // namespace

std::shared_ptr<const FrozenWeights> AtenBackend::pack(const at::Tensor& weight) const {
  return std::make_shared<AtenWeights>(weight);
}

at::Tensor AtenBackend::activate(const at::Tensor& x, Activation activation) const {
  switch (activation) {
    case Activation::kGelu: return at::gelu(x, "none");
    case Activation::kGeluTanh: return at::gelu(x, "tanh");
    case Activation::kGelu10: return at::gelu(x, "none").clamp_(-10.0, 10.0);
    case Activation::kQuickGelu: return x * at::sigmoid(x * kQuick);
    case Activation::kRelu: return at::relu(x);
    case Activation::kRelu2: return at::relu(x).square();
    case Activation::kRelu6: return x.clamp(0.0, 6.0);
    case Activation::kLeakyRelu: return at::leaky_relu(x, kLeak);
    case Activation::kSilu: return at::silu(x);
    case Activation::kHardSwish: return at::hardswish(x);
    case Activation::kMish: return at::mish(x);
    case Activation::kSqrtSoftplus: return at::softplus(x).sqrt_();
    case Activation::kSigmoid: return at::sigmoid(x);
    case Activation::kTanh: return at::tanh(x);
    case Activation::kLaplace: return (1.0 + at::erf((x - kLaplaceMean) / kLaplaceWidth)) * 0.5;
    case Activation::kLinear: return x;
  }
  throw CoreError("NEOX_UNSUPPORTED", "Unknown activation");
}

at::Tensor AtenBackend::activate_backward(const at::Tensor& dy, const at::Tensor& x, Activation activation) const {
  switch (activation) {
    case Activation::kGelu: return at::gelu_backward(dy, x, "none");
    case Activation::kGeluTanh: return at::gelu_backward(dy, x, "tanh");
    case Activation::kGelu10: return at::gelu_backward(dy, x, "none").masked_fill_(at::gelu(x, "none") > 10.0, 0.0);
    case Activation::kQuickGelu: {
      // d/dx x s(cx) = s (1 + c x (1 - s))
      const at::Tensor s = at::sigmoid(x * kQuick);
      return dy * s * (1.0 + kQuick * x * (1.0 - s));
    }
    case Activation::kRelu: return at::threshold_backward(dy, x, 0.0);
    case Activation::kRelu2: return dy * at::relu(x) * 2.0;
    case Activation::kRelu6: return at::hardtanh_backward(dy, x, 0.0, 6.0);
    case Activation::kLeakyRelu: return at::leaky_relu_backward(dy, x, kLeak, false);
    case Activation::kSilu: return at::silu_backward(dy, x);
    case Activation::kHardSwish: return at::hardswish_backward(dy, x);
    case Activation::kMish: return at::mish_backward(dy, x);
    case Activation::kSqrtSoftplus: return dy * at::sigmoid(x) / (at::softplus(x).sqrt_() * 2.0);
    case Activation::kSigmoid: return at::sigmoid_backward(dy, at::sigmoid(x));
    case Activation::kTanh: return at::tanh_backward(dy, at::tanh(x));
    case Activation::kLaplace: {
      const at::Tensor z = (x - kLaplaceMean) / kLaplaceWidth;
      return dy * at::exp(-z * z) / (kLaplaceWidth * std::sqrt(std::numbers::pi));
    }
    case Activation::kLinear: return dy;
  }
  throw CoreError("NEOX_UNSUPPORTED", "Unknown activation");
}

ChunkLoss AtenBackend::cross_entropy(at::Tensor& logits, std::span<const int64_t> targets, double scale) const {
  const at::Tensor wanted =
      at::from_blob(const_cast<int64_t*>(targets.data()), {static_cast<int64_t>(targets.size())}, at::kLong)
          .to(logits.device());
  const at::Tensor index = wanted.unsqueeze(1);  // [R, 1]
  const at::Tensor log_probs = at::log_softmax(logits, -1, at::kFloat);
  ChunkLoss sum;
  sum.loss = -log_probs.gather(1, index).sum(at::kDouble).item<double>();
  sum.correct = at::argmax(logits, -1).eq(wanted).sum().item<int64_t>();
  if (scale > 0.0) {
    at::Tensor grad = log_probs.exp();
    grad.scatter_add_(1, index, at::zeros({index.size(0), 1}, grad.options()).sub_(1.0));
    logits = grad.mul_(scale).to(logits.scalar_type());
  }
  return sum;
}

}  // namespace neox
