// One step of the rows that go through a model together: a forward pass, and a token for each of those whose prompt is
// through. There is no other loop that chooses tokens than the engine's over these functions.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "core/base/cancel.h"
#include "core/generation/beams.h"
#include "core/generation/logprobs.h"
#include "core/generation/request.h"
#include "core/generation/sampler.h"
#include "core/model/model.h"

namespace neox {

// A row on its way. A beam search is one: its prompt goes like any other, then all its beams take part in each pass.
struct Sequence {
  Sequence(int64_t number, GenerationRequest asked, const std::optional<BeamSettings>& search, int64_t scores)
      : slot(number),
        request(std::move(asked)),
        beams(search),
        prompt_logprobs(scores),
        past(request.past),
        sampler(request.sampling, request.prompt),
        prompted(request.past_tokens) {}

  int64_t slot;
  int64_t row = -1;  // how errors call it; -1: not at all
  GenerationRequest request;
  std::optional<BeamSettings> beams;
  int64_t prompt_logprobs;  // most likely tokens to give beside the score of each token of the prompt; -1: no scores
  TokenScores prompt_scores;
  Past past;
  Sampler sampler;
  int64_t granted = 0;         // tokens that it may still give
  std::vector<uint32_t> mask;  // of the last grant
  int64_t prompted;            // tokens of the prompt that are in its past
  int64_t last = 0;            // the token that goes through the model next
  bool started = false;
  bool ended = false;

  std::unique_ptr<BeamSearch> search;  // once the prompt is through

  // Tokens at the end of the prompt that do not go as a part of it: those that its search takes itself (the last one,
  // or all), and the last one where no token is wanted behind it.
  int64_t held_back = 0;

  int64_t prompt_left() const { return static_cast<int64_t>(request.prompt.size()) - held_back - prompted; }
  // Whether the pass behind which it stands now gives it a token.
  bool decodes() const { return !ended && prompt_left() == 0 && (!beams || search); }
};

// A sequence's share of a forward pass: a piece of its prompt, or its last token; of a beam search one for each beam,
// together and in order.
struct Share {
  Sequence* sequence = nullptr;
  Past* past = nullptr;
  std::vector<int64_t> tokens;
  int64_t last = 0;  // where the pass's hidden states have that of its last token; set by the pass
};

// A forward pass with pieces of prompts, and the last tokens of the sequences that run beside them. -> hidden states
// [M, H] where a prompt is scored, else [shares, H] of the last tokens.
at::Tensor prefill(const Model& model, std::vector<Share>& shares, const CancelFlag& cancel);

// A forward pass with one token of each share. -> [shares, H]. All its shapes follow from the number of shares and the
// rows' pasts.
at::Tensor decode_step(const Model& model, std::vector<Share>& shares, const CancelFlag& cancel);

// What a pass gave a sequence: a token, or why there is none; of a beam search, which has gone a step on, neither.
struct Sampled {
  Sequence* sequence = nullptr;
  int64_t first = 0;  // of its rows of logits
  TokenChoice choice;
  std::exception_ptr error;
};

// From the hidden states of a pass, for each sequence that decodes.
std::vector<Sampled> sample(const Model& model, const std::vector<Share>& shares, const at::Tensor& hidden);

// The scores of the tokens of a prompt behind those of a share, from the hidden states [M, H] of its pass.
// Throws NEOX_NOT_FINITE, and Cancelled.
void score_prompt(const Model& model, const Share& share, const at::Tensor& hidden, const CancelFlag& cancel);

}  // namespace neox
