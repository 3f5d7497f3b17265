// Log-probabilities of tokens under a row of logits.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/kernels/kernels.h"

namespace neox {

// Log-probabilities of a run of tokens, and of the same number of most likely tokens beside each.
struct TokenScores {
  std::vector<float> logprobs;      // [n]
  std::vector<int32_t> top_tokens;  // [n, k], best first
  std::vector<float> top_logprobs;  // [n, k]

  void add(float logprob, const std::vector<std::pair<int32_t, float>>& top);
};

// The range of a row of logits. Throws NEOX_NOT_FINITE unless the largest is finite: no NaN, no +infinity, not all
// -infinity.
kernels::RowRange finite_range(const float* logits, int64_t vocab);

// log(sum(exp(logits))), given the largest.
double log_sum_exp(const float* logits, int64_t vocab, float largest);

// Adds the score of a token under a row of logits, and says whether it is the most likely one. Throws as finite_range.
bool add_score(const float* logits, int64_t vocab, int64_t token, int64_t top, TokenScores& scores);

// The `count` most likely tokens with their log-probabilities, best first; of equal ones the lower id first.
std::vector<std::pair<int32_t, float>> most_likely(const float* logits, int64_t vocab, double log_sum, int64_t count);

}  // namespace neox
