// Generating text for a batch of rows over one model: each row with its own prompt, prefix, sampling options and end.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "core/base/cancel.h"
#include "core/generation/logprobs.h"
#include "core/generation/sampler.h"
#include "core/model/model.h"

namespace neox {

struct GenerationRequest {
  std::vector<int64_t> prompt;
  Past past;                // the row's prefix, and the keys and values of the first `past_tokens` tokens of the prompt
  int64_t past_tokens = 0;  // fewer than the prompt has
  SamplingOptions sampling;  // its end_ids end the row and are no part of its tokens
  int64_t max_new_tokens = 0;
  std::shared_ptr<const CancelFlag> stop;  // null, or: set while the row runs, it ends the row within a token
};

enum class FinishReason { kStop, kLength };

struct GenerationResult {
  std::vector<int64_t> tokens;
  TokenScores scores;  // of the tokens; empty unless the options ask for log-probabilities
  FinishReason reason = FinishReason::kLength;
};

// `on_token(row, choice)` is called for each new token, in order. A row ends at an end id, when it is stopped, at its
// max_new_tokens, or when the model has no position left. Rows that ended leave the batch. What a row gets does not
// depend on the others.
std::vector<GenerationResult> generate(const Model& model, const std::vector<GenerationRequest>& requests,
                                       const CancelFlag& cancel,
                                       const std::function<void(int64_t, const TokenChoice&)>& on_token);

}  // namespace neox
