#include "core/model/activation.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/threshold_backward.h>

#include "core/base/error.h"
#include "core/kernels/element.h"

namespace neox {

namespace {

constexpr double kQuick = 1.702;  // quick_gelu(x) = x * sigmoid(1.702 x)

kernels::Function function_of(Activation activation) {
  switch (activation) {
    case Activation::kGelu: return kernels::Function::kGelu;
    case Activation::kGeluTanh: return kernels::Function::kGeluTanh;
    case Activation::kQuickGelu: return kernels::Function::kQuickGelu;
    case Activation::kRelu: return kernels::Function::kRelu;
    case Activation::kSilu: return kernels::Function::kSilu;
  }
  throw CoreError("NEOX_UNSUPPORTED", "Unknown activation");
}

at::Tensor run_kernel(const at::Tensor* dy, const at::Tensor& x, Activation activation) {
  at::Tensor out = at::empty_like(x);
  const int64_t item = x.element_size();
  const auto* from = static_cast<const char*>(x.const_data_ptr());
  const auto* grad = dy == nullptr ? nullptr : static_cast<const char*>(dy->const_data_ptr());
  auto* to = static_cast<char*>(out.mutable_data_ptr());
  const auto element = kernels::element_of(x.scalar_type());
  const auto function = function_of(activation);
  const auto& table = kernels::kernels();
  at::parallel_for(0, x.numel(), 16384, [&](int64_t begin, int64_t end) {
    table.activation({element, function, end - begin, from + begin * item,
                      grad == nullptr ? nullptr : grad + begin * item, to + begin * item});
  });
  return out;
}

}  // namespace

at::Tensor activate(const at::Tensor& x, Activation activation, bool use_kernels) {
  if (use_kernels) return run_kernel(nullptr, x, activation);
  switch (activation) {
    case Activation::kGelu: return at::gelu(x, "none");
    case Activation::kGeluTanh: return at::gelu(x, "tanh");
    case Activation::kQuickGelu: return x * at::sigmoid(x * kQuick);
    case Activation::kRelu: return at::relu(x);
    case Activation::kSilu: return at::silu(x);
  }
  throw CoreError("NEOX_UNSUPPORTED", "Unknown activation");
}

at::Tensor activate_backward(const at::Tensor& dy, const at::Tensor& x, Activation activation, bool use_kernels) {
  if (use_kernels) return run_kernel(&dy, x, activation);
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
