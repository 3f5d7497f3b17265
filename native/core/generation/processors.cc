#include "core/generation/processors.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "core/base/error.h"

namespace neox {
namespace {

constexpr float kBanned = -std::numeric_limits<float>::infinity();
constexpr float kLargest = std::numeric_limits<float>::max();

bool has_penalties(const SamplingOptions& o) {
  return o.repetition_penalty != 1.0 || o.presence_penalty != 0.0 || o.frequency_penalty != 0.0;
}

}  // namespace

LogitsProcessors::LogitsProcessors(std::shared_ptr<const SamplingOptions> options, const std::vector<int64_t>& prompt)
    : options_(std::move(options)), tokens_(prompt) {
  for (const int64_t token : prompt) note(token);
  for (const auto& [token, bias] : options_->logit_bias) note(token);
  for (const int64_t token : options_->end_ids) note(token);
  for (const auto& word : options_->bad_words) {
    if (word.empty()) throw CoreError("NEOX_BAD_ARGUMENT", "A bad word has no tokens");
    for (const int64_t token : word) note(token);
  }
  if (!has_penalties(*options_)) return;
  for (const int64_t token : prompt) counts_[token] = 0;
}

void LogitsProcessors::note(int64_t token) {
  if (token < 0) throw CoreError("NEOX_BAD_ARGUMENT", "The token id " + std::to_string(token) + " is below 0");
  largest_ = std::max(largest_, token);
}

void LogitsProcessors::push(int64_t token) {
  note(token);
  tokens_.push_back(token);
  ++generated_;
  if (has_penalties(*options_)) ++counts_[token];
}

bool LogitsProcessors::idle() const {
  const SamplingOptions& o = *options_;
  return o.logit_bias.empty() && !has_penalties(o) && o.no_repeat_ngram == 0 && o.bad_words.empty() &&
         generated_ >= o.min_new_tokens;
}

void LogitsProcessors::apply(float* scores, int64_t vocab, const uint32_t* allowed) const {
  if (largest_ >= vocab) {
    throw CoreError("NEOX_BAD_ARGUMENT", "The token id " + std::to_string(largest_) + " is not in the vocabulary");
  }
  for (const auto& [token, bias] : options_->logit_bias) scores[token] += bias;
  penalize(scores);
  ban_repeated_ngrams(scores);
  ban_bad_words(scores);
  if (generated_ < options_->min_new_tokens) {
    for (const int64_t token : options_->end_ids) scores[token] = kBanned;
  }
  if (allowed == nullptr) return;
  for (int64_t first = 0; first < vocab; first += 32) {
    const uint32_t word = allowed[first / 32];
    if (word == ~uint32_t{0}) continue;
    for (int64_t i = first; i < std::min(first + 32, vocab); ++i) {
      if ((word >> (i - first) & 1U) == 0) scores[i] = kBanned;
    }
  }
}

// Repetition (Keskar et al. 2019, "CTRL"; in Hugging Face's form, which makes negative scores smaller too), then
// OpenAI's presence and frequency penalties, which vLLM puts behind it.
void LogitsProcessors::penalize(float* scores) const {
  const auto repetition = static_cast<float>(options_->repetition_penalty);
  const auto frequency = static_cast<float>(options_->frequency_penalty);
  const auto presence = static_cast<float>(options_->presence_penalty);
  for (const auto& [token, count] : counts_) {
    float& score = scores[token];
    if (score == kBanned) continue;
    if (repetition != 1.0F) score = score < 0.0F ? score * repetition : score / repetition;
    if (count > 0) score = score - frequency * static_cast<float>(count) - presence;
    score = std::clamp(score, -kLargest, kLargest);
  }
}

// Bans what would complete an n-gram that is there already, in prompt or generated text.
void LogitsProcessors::ban_repeated_ngrams(float* scores) const {
  const int64_t n = options_->no_repeat_ngram;
  const auto count = static_cast<int64_t>(tokens_.size());
  if (n == 0 || count < n) return;
  const auto tail = tokens_.end() - (n - 1);
  for (auto start = tokens_.begin(); start + (n - 1) < tokens_.end(); ++start) {
    if (std::equal(tail, tokens_.end(), start)) scores[start[n - 1]] = kBanned;
  }
}

void LogitsProcessors::ban_bad_words(float* scores) const {
  for (const auto& word : options_->bad_words) {
    const auto before = static_cast<int64_t>(word.size()) - 1;
    if (before > static_cast<int64_t>(tokens_.size())) continue;
    if (std::equal(word.begin(), word.end() - 1, tokens_.end() - before)) scores[word.back()] = kBanned;
  }
}

void throw_no_token_left() {
  throw CoreError("NEOX_BAD_ARGUMENT",
                  "No token is left to choose from: logitBias, badWords, noRepeatNgramSize, minNewTokens or the format "
                  "ban all of them");
}

}  // namespace neox
