// The transposed product dy W out of the packed form of W, which is laid out for x W^T: panels of W^T are laid out anew, each when its turn comes
// and in a buffer that stays in the cache. The layout is the one that a packed copy of W^T would have, so the results are the same to the last bit.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/kernels/kernels.h"

namespace neox {

// Packed weights [out, in] of the kernels of our own.
struct PackedView {
  const void* data = nullptr;
  kernels::WeightElement element = kernels::WeightElement::kFloat32;
  int64_t out = 0, in = 0;
  int64_t panel = 0;  // KernelTable::linear_panel
};

// The panels [first, last) of W^T [in, out], packed, to `to`.
void transpose_panels(const PackedView& weights, int64_t first, int64_t last, void* to);

int64_t element_bytes(kernels::WeightElement element);

// Bytes of a panel of W^T.
int64_t transposed_panel_bytes(const PackedView& weights);

}  // namespace neox
