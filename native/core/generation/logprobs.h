// Log-probabilities of tokens under a row of logits.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace neox {

// Log-probabilities of a run of tokens, and of the same number of most likely tokens beside each.
struct TokenScores {
  std::vector<float> logprobs;      // [n]
  std::vector<int32_t> top_tokens;  // [n, k], best first
  std::vector<float> top_logprobs;  // [n, k]

  void add(float logprob, const std::vector<std::pair<int32_t, float>>& top);
};

// Throws NEOX_NOT_FINITE unless the logits have a finite largest one: no NaN, no +infinity, not all -infinity.
void check_finite(const float* logits, int64_t vocab);

// log(sum(exp(logits))) of finite logits.
double log_sum_exp(const float* logits, int64_t vocab);

// The `count` most likely tokens with their log-probabilities, best first; of equal ones the lower id first.
std::vector<std::pair<int32_t, float>> most_likely(const float* logits, int64_t vocab, double log_sum, int64_t count);

}  // namespace neox
