// Small sums whose result must not depend on how many compute threads there are.
#pragma once

#include <ATen/Parallel.h>

namespace neox {

// Runs `body` on the calling thread alone: inside of a parallel region, ATen and the matrix products below it start no
// threads of their own, so that the order of a sum is always the same.
template <typename Body>
void on_one_thread(const Body& body) {
  at::parallel_for(0, 2, 1, [&](int64_t begin, int64_t) {
    if (begin == 0) body();
  });
}

}  // namespace neox
