// How the next token of a row is chosen: plain data, the same for all the row's tokens.
// lib/generation/sampling-options.ts has checked it; docs/guides/sampling.md has the order and the formulas.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace neox {

// Which token crosses top_p: Hugging Face's rule keeps it, rinna's (prefix-tuning-gpt, src/util.py) does not, except
// the first.
enum class TopPRule { kHuggingFace, kRinna };

struct SamplingOptions {
  // The draw.
  double temperature = 1.0;  // 0: greedy
  int64_t top_k = 0;         // 0: off
  double top_p = 1.0;        // 1: off
  TopPRule top_p_rule = TopPRule::kHuggingFace;
  double min_p = 0.0;      // 0: off
  double typical_p = 1.0;  // 1: off
  uint64_t seed = 0;
  uint32_t stream = 0;  // rows with one seed and different streams draw independently: the completions of one prompt

  // Changes to the logits, in this order, before all of the above.
  std::vector<std::pair<int64_t, float>> logit_bias;  // token, added; -infinity bans it
  double repetition_penalty = 1.0;                    // over prompt and generated tokens; 1: off
  double presence_penalty = 0.0;                      // over generated tokens
  double frequency_penalty = 0.0;
  int64_t no_repeat_ngram = 0;                  // 0: off
  std::vector<std::vector<int64_t>> bad_words;  // sequences that must not be completed
  int64_t min_new_tokens = 0;                   // before that, end_ids are banned
  std::vector<int64_t> end_ids;                 // they end the row; the Sampler only says so (`ends`)

  // Log-probabilities under the model's own distribution, before any of the changes above. -1: none; else the chosen
  // token's and as many of the most likely ones.
  int64_t logprobs = -1;
};

}  // namespace neox
