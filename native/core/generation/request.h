// What a row is asked for.
#pragma once

#include <cstdint>
#include <vector>

#include "core/generation/sampling_options.h"
#include "core/kv/past.h"

namespace neox {

struct GenerationRequest {
  std::vector<int64_t> prompt;
  Past past;                // the row's prefix, and the keys and values of the first `past_tokens` tokens of the prompt
  int64_t past_tokens = 0;  // fewer than the prompt has
  SamplingOptions sampling;  // its end_ids end the row and are no part of its tokens
  int64_t max_new_tokens = 0;
};

// kStop: by an end id. kLength: by max_new_tokens, or because the model has no position left.
enum class FinishReason { kStop, kLength };

}  // namespace neox
