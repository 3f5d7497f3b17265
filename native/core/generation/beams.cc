#include "core/generation/beams.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/generation/logprobs.h"
#include "core/generation/ranking.h"

namespace neox {
namespace {

template <typename T>
bool better(const T& a, const T& b) {
  return a.score > b.score;
}

}  // namespace

BeamSearch::BeamSearch(const KeyValueShape& shape, const GenerationRequest& row, const BeamSettings& settings)
    : settings_(settings),
      options_(std::make_shared<const SamplingOptions>(row.sampling)),
      // The last token needs no position: nothing is computed from it.
      longest_(std::min(row.max_new_tokens, shape.max_positions - row.past.positions() -
                                                (static_cast<int64_t>(row.prompt.size()) - row.past_tokens) + 1)),
      room_(row.past.length + static_cast<int64_t>(row.prompt.size()) - row.past_tokens + longest_ - 1) {
  running_.push_back({row.past, LogitsProcessors(options_, row.prompt), {}, {}, 0.0F});
  running_[0].input.assign(row.prompt.begin() + row.past_tokens, row.prompt.end());
  done_ = longest_ <= 0;
}

void BeamSearch::make_room(const KeyValueShape& shape) {
  KeyValueShape bounded = shape;
  bounded.max_positions = room_;
  for (Beam& beam : running_) beam.cache.claim(bounded, static_cast<int64_t>(beam.input.size()));
  // Each has a storage of its own now, and takes its room in the forward pass.
  for (Beam& beam : running_) beam.cache.storage->used = beam.cache.length;
}

void BeamSearch::step(float* logits, int64_t vocab) {
  const std::vector<Candidate> candidates = extend(logits, vocab);
  const int64_t length = ++length_;
  finish(candidates, length);
  keep_running(candidates);
  // Nothing that runs can improve what is there, or nothing runs.
  improvable_ = improvable_ && !running_.empty() && can_improve(length);
  const bool enough = full() && settings_.early_stopping == EarlyStopping::kYes;
  done_ = !improvable_ || enough || running_.empty();
}

std::vector<BeamResult> BeamSearch::results() {
  if (finished_.empty()) return {BeamResult()};  // no token was wanted
  finished_.resize(std::min(finished_.size(), static_cast<size_t>(settings_.returned)));
  return std::move(finished_);
}

float BeamSearch::at_length(float score, int64_t length) const {
  return score / static_cast<float>(std::pow(static_cast<double>(length), settings_.length_penalty));
}

// The best candidates of all beams, best first: so many that, whichever of them end, as many as there are beams go on.
std::vector<BeamSearch::Candidate> BeamSearch::extend(float* logits, int64_t vocab) const {
  const auto ends = static_cast<int64_t>(options_->end_ids.size());
  const int64_t wanted = std::max<int64_t>(2, 1 + ends) * settings_.beams;
  std::vector<Candidate> candidates;
  for (size_t b = 0; b < running_.size(); ++b, logits += vocab) {
    const Beam& beam = running_[b];
    const double log_sum = log_sum_exp(logits, vocab, finite_range(logits, vocab).largest);
    for (int64_t i = 0; i < vocab; ++i) logits[i] = static_cast<float>(logits[i] - log_sum);
    beam.processors.apply(logits, vocab, nullptr);
    for (const auto& [token, log_probability] : most_likely(logits, vocab, 0.0, wanted)) {
      if (std::isinf(log_probability)) break;
      const bool end = std::find(options_->end_ids.begin(), options_->end_ids.end(), token) != options_->end_ids.end();
      candidates.push_back({b, token, log_probability + beam.score, end, end || length_ + 1 == longest_});
    }
  }
  if (candidates.empty()) throw_no_token_left();
  std::stable_sort(candidates.begin(), candidates.end(), better<Candidate>);
  if (static_cast<int64_t>(candidates.size()) > wanted) candidates.resize(static_cast<size_t>(wanted));
  return candidates;
}

// Of the candidates that are closed, only those among the first `beams` count.
void BeamSearch::finish(const std::vector<Candidate>& candidates, int64_t length) {
  if (!improvable_ || (full() && settings_.early_stopping == EarlyStopping::kYes)) return;
  const size_t first = std::min(candidates.size(), static_cast<size_t>(settings_.beams));
  for (size_t i = 0; i < first; ++i) {
    const Candidate& c = candidates[i];
    if (!c.closed) continue;
    BeamResult result{running_[c.beam].tokens, at_length(c.score, length), FinishReason::kStop};
    if (!c.ends) {
      result.tokens.push_back(c.token);
      result.reason = FinishReason::kLength;
    }
    finished_.push_back(std::move(result));
  }
  std::stable_sort(finished_.begin(), finished_.end(), better<BeamResult>);
  if (static_cast<int64_t>(finished_.size()) > settings_.beams) finished_.resize(static_cast<size_t>(settings_.beams));
}

void BeamSearch::keep_running(const std::vector<Candidate>& candidates) {
  std::vector<Beam> next;
  for (const Candidate& c : candidates) {
    if (c.closed) continue;
    if (static_cast<int64_t>(next.size()) == settings_.beams) break;
    Beam beam = running_[c.beam];  // shares the cache until one of them goes on
    beam.tokens.push_back(c.token);
    beam.processors.push(c.token);
    beam.input.assign(1, c.token);
    beam.score = c.score;
    next.push_back(std::move(beam));
  }
  running_ = std::move(next);
}

// transformers' heuristics: could the best running beam still enter?
bool BeamSearch::can_improve(int64_t length) const {
  if (!full()) return true;
  const bool at_longest = settings_.early_stopping == EarlyStopping::kNever && settings_.length_penalty > 0.0;
  return at_length(running_.front().score, at_longest ? longest_ : length) > finished_.back().score;
}

}  // namespace neox
