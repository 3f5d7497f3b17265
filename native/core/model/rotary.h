// Rotary position embedding (Su et al. 2021): cosines and sines by position, always float32.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/model/config.h"

namespace neox {

struct RotaryTable {
  at::Tensor cos;  // [positions, n/2] float32
  at::Tensor sin;  // [positions, n/2] float32
};

class Rotary {
 public:
  Rotary(const NeoXConfig& config, at::Device device);

  int64_t half() const { return table_.cos.size(1); }  // n/2

  // The angles of the positions [first, first + count) of one row: lines [line, line + count) of a table.
  struct Angles {
    RotaryTable table;
    int64_t line = 0;
  };
  // With dynamic scaling, the frequencies of a row that is longer than the model was trained for depend on its length,
  // as it is in this call; keys that are cached already keep the ones they were rotated by. (transformers' dynamic NTK
  // scaling, with every row taken for itself.)
  Angles angles(int64_t first, int64_t count) const;

 private:
  NeoXConfig config_;
  at::Device device_;
  RotaryTable table_;
};

}  // namespace neox
