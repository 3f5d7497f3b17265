#include "core/generation/logprobs.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"

namespace neox {

void TokenScores::add(float logprob, const std::vector<std::pair<int32_t, float>>& top) {
  logprobs.push_back(logprob);
  for (const auto& [token, value] : top) {
    top_tokens.push_back(token);
    top_logprobs.push_back(value);
  }
}

kernels::RowRange finite_range(const float* logits, int64_t vocab) {
  const kernels::RowRange range = kernels::kernels().row_range(logits, vocab);
  if (range.finite && std::isfinite(range.largest)) return range;
  throw CoreError("NEOX_NOT_FINITE", "The model gives logits that are not finite");
}

double log_sum_exp(const float* logits, int64_t vocab, float largest) {
  return largest + std::log(kernels::kernels().exp_sum(logits, vocab, largest, 1.0F, nullptr));
}

bool add_score(const float* logits, int64_t vocab, int64_t token, int64_t top, TokenScores& scores) {
  const kernels::RowRange range = finite_range(logits, vocab);
  const double log_sum = log_sum_exp(logits, vocab, range.largest);
  scores.add(static_cast<float>(logits[token] - log_sum), most_likely(logits, vocab, log_sum, top));
  return range.first_largest == token;
}

std::vector<std::pair<int32_t, float>> most_likely(const float* logits, int64_t vocab, double log_sum, int64_t count) {
  std::vector<std::pair<int32_t, float>> best;  // sorted
  const auto better = [](const auto& a, const auto& b) { return a.second > b.second; };
  const auto size = static_cast<size_t>(std::min(count, vocab));
  for (int64_t i = 0; i < vocab && size > 0; ++i) {
    if (best.size() == size && !(logits[i] > best.back().second)) continue;
    if (best.size() == size) best.pop_back();
    const std::pair<int32_t, float> item(static_cast<int32_t>(i), logits[i]);
    best.insert(std::upper_bound(best.begin(), best.end(), item, better), item);
  }
  for (auto& [token, value] : best) value = static_cast<float>(value - log_sum);
  return best;
}

}  // namespace neox
