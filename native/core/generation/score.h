// How likely a model holds given tokens: in a prompt, a continuation, a text.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/cancel.h"
#include "core/generation/logprobs.h"
#include "core/model/model.h"

namespace neox {

struct ScoreRow {
  std::vector<int64_t> tokens;   // may be empty
  std::vector<int64_t> targets;  // parallel to tokens: what is scored as the next token there; -1: nothing
  Past cache;                    // what stands in front; grows by the tokens
};

struct RowScores {
  TokenScores scores;           // of the targets
  std::vector<uint8_t> greedy;  // 1 where the target is the most likely token
};

// `top`: how many of the most likely tokens to give beside each target. Without `keep` a row's cache is dropped as soon
// as it is not needed.
std::vector<RowScores> score(const Model& model, std::vector<ScoreRow>& rows, int64_t top, bool keep,
                             const CancelFlag& cancel);

}  // namespace neox
