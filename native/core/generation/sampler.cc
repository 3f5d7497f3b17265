#include "core/generation/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace neox {

Sampler::Sampler(SamplingOptions options, const std::vector<int64_t>& /*prompt*/) : options_(std::move(options)) {}

bool Sampler::ends(int64_t token) const {
  return std::find(options_.end_ids.begin(), options_.end_ids.end(), token) != options_.end_ids.end();
}

double uniform_at(uint64_t seed, uint64_t counter, uint32_t stream) {
  std::array<uint32_t, 4> x = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), stream, 0};
  uint32_t key0 = static_cast<uint32_t>(seed);
  uint32_t key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * x[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * x[2];
    x = {static_cast<uint32_t>(b >> 32) ^ x[1] ^ key0, static_cast<uint32_t>(b),
         static_cast<uint32_t>(a >> 32) ^ x[3] ^ key1, static_cast<uint32_t>(a)};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  const uint64_t bits = (static_cast<uint64_t>(x[0]) << 32 | x[1]) >> 11;  // 53 bits
  return static_cast<double>(bits) * 0x1.0p-53;
}

TokenChoice Sampler::next(float* logits, int64_t vocab, const uint32_t* /*allowed*/) {
  const auto step = static_cast<uint64_t>(generated_++);
  TokenChoice choice;
  if (options_.temperature == 0.0) {
    choice.token = std::max_element(logits, logits + vocab) - logits;
    return choice;
  }
  candidates_.clear();
  for (int64_t i = 0; i < vocab; ++i) candidates_.push_back({logits[i], static_cast<int32_t>(i)});
  // Ties go to the lower id, so that the order is total and the result does not depend on the sort.
  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  if (options_.top_k > 0 && options_.top_k < vocab) {
    // Hugging Face keeps every token that ties with the k-th.
    std::nth_element(candidates_.begin(), candidates_.begin() + (options_.top_k - 1), candidates_.end(), better);
    const float least = candidates_[static_cast<size_t>(options_.top_k - 1)].logit;
    std::erase_if(candidates_, [&](const Candidate& c) { return c.logit < least; });
  }
  std::sort(candidates_.begin(), candidates_.end(), better);
  const double largest = candidates_.front().logit;
  weights_.clear();
  double total = 0.0;
  for (const Candidate& c : candidates_) {
    weights_.push_back(std::exp((c.logit - largest) / options_.temperature));
    total += weights_.back();
  }
  size_t kept = candidates_.size();
  if (options_.top_p < 1.0) {
    // The smallest set of most likely tokens whose probability reaches top_p; the token that crosses it is kept.
    double sum = 0.0;
    for (size_t i = 0; i < weights_.size(); ++i) {
      sum += weights_[i];
      if (sum >= options_.top_p * total) {
        kept = i + 1;
        total = sum;
        break;
      }
    }
  }
  double target = uniform_at(options_.seed, step, options_.stream) * total;
  choice.token = candidates_[kept - 1].id;
  for (size_t i = 0; i < kept; ++i) {
    target -= weights_[i];
    if (target >= 0.0) continue;
    choice.token = candidates_[i].id;
    break;
  }
  return choice;
}

}  // namespace neox
