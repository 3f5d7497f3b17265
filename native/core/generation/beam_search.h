// Beam search, with the results of transformers' (5.18, generation/utils.py _beam_search, without sampling) on the same logits.
#pragma once

#include <cstdint>
#include <vector>

#include "core/cancel.h"
#include "core/generation/generate.h"
#include "core/model/gpt_neox.h"

namespace neox {

// When a search ends before all beams have reached their last token: as soon as there are as many finished sequences as beams (kYes), when
// the best running beam, taken as it is, cannot beat the worst of them (kNo), or when it cannot at any length (kNever).
enum class EarlyStopping { kNo, kYes, kNever };

struct BeamRequest {
  GenerationRequest row;  // of its sampling options, the processors and end_ids count
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

// For each request its best sequences, best first. The requests go through the model together and do not see each other.
std::vector<std::vector<BeamResult>> beam_search(const GPTNeoX& model, const std::vector<BeamRequest>& requests,
                                                 const CancelFlag& cancel);

}  // namespace neox
