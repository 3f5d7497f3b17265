// Rotary position embedding (Su et al. 2021): cosines and sines by position, always float32.
#pragma once

#include "core/backends/backend.h"
#include "core/model/config.h"

namespace neox {

class Rotary {
 public:
  Rotary(const NeoXConfig& config, at::Device device);

  // The angles of the positions [first, first + count) of one row.
  // With dynamic scaling and longrope the frequencies of a row that is longer than trained_positions depend on its
  // length, as it is in this call; keys that are cached already keep the ones they were rotated by. (As transformers
  // does it, with every row taken for itself.)
  RotaryAngles angles(int64_t first, int64_t count) const;

 private:
  NeoXConfig config_;
  at::Device device_;
  RotaryAngles table_;  // of rows up to trained_positions
  RotaryAngles long_;   // longrope: of longer rows, all positions
};

}  // namespace neox
