#include "core/generation/beam_search.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "core/generation/batch.h"
#include "core/generation/processors.h"

namespace neox {
namespace {

struct Beam {
  RowCache cache;
  LogitsProcessors processors;
  std::vector<int64_t> tokens;  // generated
  std::vector<int64_t> input;   // what goes through the model next
  float score = 0.0F;           // sum of the tokens' processed log-probabilities
};

// A beam with one more token.
struct Candidate {
  size_t beam = 0;
  int64_t token = 0;
  float score = 0.0F;
  bool ends = false;    // by its token
  bool closed = false;  // by its token or its length
};

template <typename T>
bool better(const T& a, const T& b) {
  return a.score > b.score;
}

// The search for one request. Scores are float32 in the order of transformers' operations.
class Search {
 public:
  Search(const NeoXConfig& config, const BeamRequest& request)
      : request_(request),
        options_(std::make_shared<const SamplingOptions>(request.row.sampling)),
        // The last token needs no position: nothing is computed from it.
        longest_(std::min(request.row.max_new_tokens,
                          config.max_positions - request.row.past.positions() -
                              (static_cast<int64_t>(request.row.prompt.size()) - request.row.past_tokens) + 1)) {
    const std::vector<int64_t>& prompt = request.row.prompt;
    running_.push_back({request.row.past, LogitsProcessors(options_, prompt), {}, {}, 0.0F});
    running_[0].input.assign(prompt.begin() + request.row.past_tokens, prompt.end());
    done_ = longest_ <= 0;
  }

  bool done() const { return done_; }
  std::vector<Beam>& running() { return running_; }

  // Goes one token on, from the logits [V] of each running beam, which it changes.
  void step(float* logits, int64_t vocab) {
    const std::vector<Candidate> candidates = extend(logits, vocab);
    const int64_t length = ++length_;
    finish(candidates, length);
    keep_running(candidates);
    // Nothing that runs can improve what is there, or nothing runs.
    improvable_ = improvable_ && !running_.empty() && can_improve(length);
    const bool enough = full() && request_.early_stopping == EarlyStopping::kYes;
    done_ = !improvable_ || enough || running_.empty();
  }

  std::vector<BeamResult> results() {
    if (finished_.empty()) return {BeamResult()};  // no token was wanted
    finished_.resize(std::min(finished_.size(), static_cast<size_t>(request_.returned)));
    return std::move(finished_);
  }

 private:
  bool full() const { return static_cast<int64_t>(finished_.size()) == request_.beams; }

  float at_length(float score, int64_t length) const {
    return score / static_cast<float>(std::pow(static_cast<double>(length), request_.length_penalty));
  }

  // The best candidates of all beams, best first: so many that, whichever of them end, as many as there are beams go on.
  std::vector<Candidate> extend(float* logits, int64_t vocab) {
    const auto ends = static_cast<int64_t>(options_->end_ids.size());
    const int64_t wanted = std::max<int64_t>(2, 1 + ends) * request_.beams;
    std::vector<Candidate> candidates;
    for (size_t b = 0; b < running_.size(); ++b, logits += vocab) {
      const Beam& beam = running_[b];
      const double log_sum = log_sum_exp(logits, vocab, finite_range(logits, vocab).largest);
      for (int64_t i = 0; i < vocab; ++i) logits[i] = static_cast<float>(logits[i] - log_sum);
      beam.processors.apply(logits, vocab, nullptr);
      for (const auto& [token, log_probability] : most_likely(logits, vocab, 0.0, wanted)) {
        if (std::isinf(log_probability)) break;
        const bool end =
            std::find(options_->end_ids.begin(), options_->end_ids.end(), token) != options_->end_ids.end();
        candidates.push_back({b, token, log_probability + beam.score, end, end || length_ + 1 == longest_});
      }
    }
    if (candidates.empty()) throw_no_token_left();
    std::stable_sort(candidates.begin(), candidates.end(), better<Candidate>);
    if (static_cast<int64_t>(candidates.size()) > wanted) candidates.resize(static_cast<size_t>(wanted));
    return candidates;
  }

  // Of the candidates that are closed, only those among the first `beams` count.
  void finish(const std::vector<Candidate>& candidates, int64_t length) {
    if (!improvable_ || (full() && request_.early_stopping == EarlyStopping::kYes)) return;
    const size_t first = std::min(candidates.size(), static_cast<size_t>(request_.beams));
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
    if (static_cast<int64_t>(finished_.size()) > request_.beams) finished_.resize(static_cast<size_t>(request_.beams));
  }

  void keep_running(const std::vector<Candidate>& candidates) {
    std::vector<Beam> next;
    for (const Candidate& c : candidates) {
      if (c.closed) continue;
      if (static_cast<int64_t>(next.size()) == request_.beams) break;
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
  bool can_improve(int64_t length) const {
    if (!full()) return true;
    const bool at_longest = request_.early_stopping == EarlyStopping::kNever && request_.length_penalty > 0.0;
    return at_length(running_.front().score, at_longest ? longest_ : length) > finished_.back().score;
  }

  const BeamRequest& request_;
  std::shared_ptr<const SamplingOptions> options_;
  int64_t longest_;     // tokens of the longest sequence
  int64_t length_ = 0;  // tokens of the running beams
  std::vector<Beam> running_;
  std::vector<BeamResult> finished_;  // best first, at most `beams`
  bool improvable_ = true;
  bool done_ = false;
};

}  // namespace

std::vector<std::vector<BeamResult>> beam_search(const GPTNeoX& model, const std::vector<BeamRequest>& requests,
                                                 const CancelFlag& cancel) {
  const int64_t vocab = model.config().vocab_size;
  std::vector<Search> searches;
  searches.reserve(requests.size());
  for (const BeamRequest& request : requests) searches.emplace_back(model.config(), request);
  for (;;) {
    cancel.check();
    std::vector<RowInput> inputs;
    std::vector<std::pair<Search*, size_t>> owners;  // of the inputs: a search's first, and how many it has
    for (Search& search : searches) {
      if (search.done()) continue;
      owners.emplace_back(&search, search.running().size());
      for (Beam& beam : search.running()) inputs.push_back({&beam.cache, &beam.input});
    }
    if (inputs.empty()) break;
    // Beams of one search stay together: their logits are compared.
    size_t begin = 0;
    for (size_t owner = 0; owner < owners.size();) {
      const size_t limit = batch_end(inputs, begin);
      size_t end = begin;
      size_t last = owner;
      while (last < owners.size() && (last == owner || end + owners[last].second <= limit))
        end += owners[last++].second;
      const std::vector<RowInput> part(inputs.begin() + static_cast<std::ptrdiff_t>(begin),
                                       inputs.begin() + static_cast<std::ptrdiff_t>(end));
      const at::Tensor logits = last_logits(model, part, cancel);  // [rows, V]
      auto* data = logits.data_ptr<float>();
      for (; owner < last; ++owner) {
        Search* const search = owners[owner].first;
        for_row(static_cast<size_t>(search - searches.data()), [&] { search->step(data, vocab); });
        data += static_cast<int64_t>(owners[owner].second) * vocab;
      }
      begin = end;
    }
  }
  std::vector<std::vector<BeamResult>> results;
  for (Search& search : searches) results.push_back(search.results());
  return results;
}

}  // namespace neox
