// Generating text for a batch of rows over one model: each row with its own prompt, prefix, sampling options and end.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "core/cancel.h"
#include "core/generation/sampler.h"
#include "core/model/gpt_neox.h"

namespace neox {

struct GenerationRequest {
  std::vector<int64_t> prompt;
  std::shared_ptr<const Prefix> prefix;  // null: none
  SamplingOptions sampling;              // its end_ids end the row and are no part of its tokens
  int64_t max_new_tokens = 0;
};

enum class FinishReason { kStop, kLength };

struct GenerationResult {
  std::vector<int64_t> tokens;
  FinishReason reason = FinishReason::kLength;
};

// `on_token(row, token)` is called for each new token, in order. A row ends at an end id, at its max_new_tokens, or when the model has
// no position left. Rows that ended leave the batch. What a row gets does not depend on the others.
std::vector<GenerationResult> generate(const GPTNeoX& model, const std::vector<GenerationRequest>& requests,
                                       const CancelFlag& cancel, const std::function<void(int64_t, int64_t)>& on_token);

}  // namespace neox
