// Between ATen's dtypes and the kernels' element types.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/base/error.h"
#include "core/kernels/kernels.h"

namespace neox::kernels {

inline Element element_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat: return Element::kFloat32;
    case at::kBFloat16: return Element::kBFloat16;
    case at::kHalf: return Element::kFloat16;
    default: throw CoreError("NEOX_UNSUPPORTED", std::string("No kernel for dtype ") + c10::toString(dtype));
  }
}

}  // namespace neox::kernels
