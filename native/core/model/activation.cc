#include "core/model/activation.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/threshold_backward.h>

#include "core/error.h"

namespace neox {

namespace {
constexpr double kQuick = 1.702;  // quick_gelu(x) = x * sigmoid(1.702 x)
}

at::Tensor activate(const at::Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::kGelu: return at::gelu(x, "none");
    case Activation::kGeluTanh: return at::gelu(x, "tanh");
    case Activation::kQuickGelu: return x * at::sigmoid(x * kQuick);
    case Activation::kRelu: return at::relu(x);
    case Activation::kSilu: return at::silu(x);
  }
  throw CoreError("NEOX_UNSUPPORTED", "Unknown activation");
}

at::Tensor activate_backward(const at::Tensor& dy, const at::Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::kGelu: return at::gelu_backward(dy, x, "none");
    case Activation::kGeluTanh: return at::gelu_backward(dy, x, "tanh");
    case Activation::kQuickGelu: {
      // d/dx x s(cx) = s (1 + c x (1 - s))
      const at::Tensor s = at::sigmoid(x * kQuick);
      return dy * s * (1.0 + kQuick * x * (1.0 - s));
    }
    case Activation::kRelu: return at::threshold_backward(dy, x, 0.0);
    case Activation::kSilu: return at::silu_backward(dy, x);
  }
  throw CoreError("NEOX_UNSUPPORTED", "Unknown activation");
}

}  // namespace neox
