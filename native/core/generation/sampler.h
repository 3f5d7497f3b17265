// Choosing the next token of a row from its logits: processors, then greedy, or temperature, top-k, top-p, min-p and
// typical-p, and a draw.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "core/generation/processors.h"
#include "core/generation/sampling_options.h"

namespace neox {

struct TokenChoice {
  int64_t token = 0;
  // Only when the options ask for them: the token's log-probability, and the most likely tokens with theirs, best
  // first.
  float logprob = 0.0F;
  std::vector<std::pair<int32_t, float>> top;
};

// One row: its options, how many tokens it has drawn, and what penalties look back at. A copy goes on by itself.
class Sampler {
 public:
  // `prompt`: the row's token ids before the first generated one; the prefix has none.
  Sampler(SamplingOptions options, const std::vector<int64_t>& prompt);

  // Chooses from the row's logits [vocab], which it may change, and remembers the token. The draw depends on seed,
  // stream and the number of tokens drawn before alone, never on other rows. `allowed`: null, or a bit per token (bit i
  // % 32 of word i / 32), 0: banned. Throws NEOX_NOT_FINITE for logits with NaN or +infinity or with nothing but
  // -infinity, and NEOX_BAD_ARGUMENT when the options and `allowed` leave no token.
  TokenChoice next(float* logits, int64_t vocab, const uint32_t* allowed = nullptr);
  // What next() would draw from: the probability of each token, 0 for those that are left out; all on one token when
  // greedy.
  std::vector<float> probabilities(float* logits, int64_t vocab, const uint32_t* allowed = nullptr) const;
  // Remembers a token that was chosen otherwise.
  void push(int64_t token) { processors_.push(token); }

  // True for a token that ends the row.
  bool ends(int64_t token) const;
  // Tokens chosen so far.
  int64_t generated() const { return processors_.generated(); }

 private:
  std::shared_ptr<const SamplingOptions> options_;
  LogitsProcessors processors_;
};

// Uniform in [0, 1) from a counter: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
double uniform_at(uint64_t seed, uint64_t counter, uint32_t stream = 0);

}  // namespace neox
