// The nonlinearity of the MLP and its derivative.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/model/config.h"

namespace neox {

// On contiguous tensors; `use_kernels` (CPU): with the kernels of our own, whose results do not depend on where an
// element stands.
at::Tensor activate(const at::Tensor& x, Activation activation, bool use_kernels);
// `x` is activate()'s input.
at::Tensor activate_backward(const at::Tensor& dy, const at::Tensor& x, Activation activation, bool use_kernels);

}  // namespace neox
