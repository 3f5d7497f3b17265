// Tensors that lie in pieces, in several files and in another order: what a tensor-parallel FasterTransformer folder
// holds.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/checkpoint/mapped_file.h"

namespace neox {

// The tensor of any entry, contiguous, in a dtype: mapped where it lies as it is, else made in memory, one piece at a
// time. Throws CoreError(bad_checkpoint) when a piece reaches outside of its file, or when the pieces do not give the
// shape.
at::Tensor read_tensor(const TensorEntry& entry, at::ScalarType dtype);

}  // namespace neox
