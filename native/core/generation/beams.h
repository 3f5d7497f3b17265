// The beam search of one row, step by step, with the results of transformers' (5.18, generation/utils.py _beam_search,
// without sampling) on the same logits. Whoever owns it takes its beams through the model.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/generation/processors.h"
#include "core/generation/request.h"

namespace neox {

// When a search ends before all beams have reached their last token: as soon as there are as many finished sequences as
// beams (kYes), when the best running beam, taken as it is, cannot beat the worst of them (kNo), or when it cannot at
// any length (kNever).
enum class EarlyStopping { kNo, kYes, kNever };

struct BeamSettings {
  int64_t beams = 1;
  double length_penalty = 1.0;  // a finished sequence's score is its log-probability / tokens^length_penalty
  EarlyStopping early_stopping = EarlyStopping::kNo;
  int64_t returned = 1;  // sequences to return, at most `beams`
};

struct BeamResult {
  std::vector<int64_t> tokens;
  float score = 0.0F;
  FinishReason reason = FinishReason::kLength;
};

struct Beam {
  Past cache;
  LogitsProcessors processors;
  std::vector<int64_t> tokens;  // generated
  std::vector<int64_t> input;   // what goes through the model next
  float score = 0.0F;           // sum of the tokens' processed log-probabilities
};

// Scores are float32 in the order of transformers' operations.
class BeamSearch {
 public:
  // Of the row's sampling options, the processors and end_ids count.
  BeamSearch(const KeyValueShape& shape, const GenerationRequest& row, const BeamSettings& settings);

  bool done() const { return done_; }
  // The beams whose inputs go through the model next.
  std::vector<Beam>& running() { return running_; }
  // Makes the memory that the running beams need for their inputs, so that no forward pass fails for the want of it. A
  // beam's memory is never for more tokens than it may come to have.
  void make_room(const KeyValueShape& shape);
  // Goes one token on, from the logits [beams, V] of the running beams, which it changes.
  // Throws NEOX_NOT_FINITE for logits with NaN or +infinity, and NEOX_BAD_ARGUMENT when the processors leave no token.
  void step(float* logits, int64_t vocab);
  // The best sequences, best first. Once.
  std::vector<BeamResult> results();

 private:
  // A beam with one more token.
  struct Candidate {
    size_t beam = 0;
    int64_t token = 0;
    float score = 0.0F;
    bool ends = false;    // by its token
    bool closed = false;  // by its token or its length
  };

  bool full() const { return static_cast<int64_t>(finished_.size()) == settings_.beams; }
  float at_length(float score, int64_t length) const;
  std::vector<Candidate> extend(float* logits, int64_t vocab) const;
  void finish(const std::vector<Candidate>& candidates, int64_t length);
  void keep_running(const std::vector<Candidate>& candidates);
  bool can_improve(int64_t length) const;

  BeamSettings settings_;
  std::shared_ptr<const SamplingOptions> options_;
  int64_t longest_;     // tokens of the longest sequence
  int64_t room_;        // tokens that the cache of a beam may come to have
  int64_t length_ = 0;  // tokens of the running beams
  std::vector<Beam> running_;
  std::vector<BeamResult> finished_;  // best first, at most `beams`
  bool improvable_ = true;
  bool done_ = false;
};

}  // namespace neox
