// Sums over lanes whose result has the same bits for any number of ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "core/base/cancel.h"
#include "core/dist/process_group.h"

namespace neox {

// Where each rank's part of n elements begins, and where the last one ends: size + 1 numbers.
std::vector<int64_t> equal_parts(int64_t elements, int size);

// Adds up lanes of n float32 elements, ((lane 0 + lane 1) + lane 2) + ..., where rank r of R has the lanes r, r + R,
// ... in `mine`, each flat. Every rank gets its part of the sum, from bounds[r] to bounds[r + 1]. It sends and receives
// about 2n(R-1)/R elements, as a ring all-reduce would, whose sums depend on R.
at::Tensor ordered_sum(ProcessGroup& group, const std::vector<at::Tensor>& mine, int64_t lanes,
                       const std::vector<int64_t>& bounds, const CancelFlag& cancel);

// The parts of all ranks, one behind the other, on rank 0; undefined on the others.
at::Tensor gather_parts(ProcessGroup& group, const at::Tensor& part, const std::vector<int64_t>& bounds,
                        const CancelFlag& cancel);

}  // namespace neox
