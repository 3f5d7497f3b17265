// Rotary position embedding (Su et al. 2021): cosines and sines by position, always float32.
#pragma once

#include "core/backends/backend.h"
#include "core/model/config.h"

namespace neox {

class Rotary {
 public:
  Rotary(const NeoXConfig& config, at::Device device);

  // The angles of the positions [first, first + count) of one row.
  // With dynamic scaling, the frequencies of a row that is longer than the model was trained for depend on its length,
  // as it is in this call; keys that are cached already keep the ones they were rotated by. (transformers' dynamic NTK
  // scaling, with every row taken for itself.)
  RotaryAngles angles(int64_t first, int64_t count) const;

 private:
  NeoXConfig config_;
  at::Device device_;
  RotaryAngles table_;  // of the positions that the model was trained on
};

}  // namespace neox
