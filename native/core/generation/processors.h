// What changes a row's logits before a token is chosen: biases, penalties and bans, in Hugging Face's order and by its
// formulas (transformers, generation/logits_process.py and _get_logits_processor).
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/generation/sampling_options.h"

namespace neox {

// The processors of one row with the tokens that they look back at. A copy goes on by itself.
class LogitsProcessors {
 public:
  // `prompt`: the row's tokens before the first generated one; the prefix has none. Throws NEOX_BAD_ARGUMENT for a
  // token id below 0 and for an empty bad word.
  LogitsProcessors(std::shared_ptr<const SamplingOptions> options, const std::vector<int64_t>& prompt);

  // Tokens generated so far.
  int64_t generated() const { return generated_; }
  void push(int64_t token);

  // True where apply() would change nothing.
  bool idle() const;
  // Changes the scores of the next token, [vocab]: logits, or log-probabilities in a beam search. `allowed`: null, or a
  // bit per token (bit i % 32 of word i / 32), 0: banned. Throws NEOX_BAD_ARGUMENT for a token id of `vocab` or more.
  void apply(float* scores, int64_t vocab, const uint32_t* allowed) const;

 private:
  void penalize(float* scores) const;
  void ban_repeated_ngrams(float* scores) const;
  void ban_bad_words(float* scores) const;
  // Token ids index the scores: nothing that came over the border may reach beside them.
  void note(int64_t token);

  std::shared_ptr<const SamplingOptions> options_;
  std::vector<int64_t> tokens_;  // prompt and generated
  int64_t generated_ = 0;
  int64_t largest_ = -1;                         // of all token ids here and in the options
  std::unordered_map<int64_t, int64_t> counts_;  // how often each of tokens_ was generated; only kept for penalties
};

// The error where processors leave no token.
[[noreturn]] void throw_no_token_left();

}  // namespace neox
