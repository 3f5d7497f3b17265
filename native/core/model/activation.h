// The nonlinearity of the MLP and its derivative.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/model/config.h"

namespace neox {

at::Tensor activate(const at::Tensor& x, Activation activation);
at::Tensor activate_backward(const at::Tensor& dy, const at::Tensor& x,
                             Activation activation);  // x is activate()'s input

}  // namespace neox
