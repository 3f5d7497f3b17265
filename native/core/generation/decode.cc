#include "core/generation/decode.h"

#include <ATen/Parallel.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>

#include "core/generation/batch.h"

namespace neox {
namespace {

constexpr int64_t kScored = 128;  // positions whose logits are in memory at a time

at::Tensor pass(const Model& model, std::vector<Share>& shares, Wanted wanted, const CancelFlag& cancel) {
  std::vector<RowInput> inputs;
  inputs.reserve(shares.size());
  int64_t count = 0;  // of hidden states
  for (Share& share : shares) {
    inputs.push_back({share.past, &share.tokens});
    count += wanted == Wanted::kAll ? static_cast<int64_t>(share.tokens.size()) : 1;
    share.last = count - 1;
  }
  return hidden_states(model, inputs, wanted, cancel);
}

// Does something for a sequence; its errors say which row it is, where it has a number.
template <typename Body>
void named(const Sequence& sequence, const Body& body) {
  if (sequence.row < 0) return body();
  for_row(static_cast<size_t>(sequence.row), body);
}

}  // namespace

at::Tensor prefill(const Model& model, std::vector<Share>& shares, const CancelFlag& cancel) {
  const bool scored = std::any_of(shares.begin(), shares.end(), [](const Share& share) {
    return share.sequence->prompt_logprobs >= 0 && share.sequence->prompt_left() > 0;
  });
  return pass(model, shares, scored ? Wanted::kAll : Wanted::kLast, cancel);
}

at::Tensor decode_step(const Model& model, std::vector<Share>& shares, const CancelFlag& cancel) {
  return pass(model, shares, Wanted::kLast, cancel);
}

std::vector<Sampled> sample(const Model& model, const std::vector<Share>& shares, const at::Tensor& hidden) {
  std::vector<Sampled> sampled;
  std::vector<int64_t> wanted;  // of the hidden states
  for (const Share& share : shares) {
    if (!share.sequence->decodes()) continue;
    if (sampled.empty() || sampled.back().sequence != share.sequence)
      sampled.push_back({share.sequence, static_cast<int64_t>(wanted.size()), {}, nullptr});
    wanted.push_back(share.last);
  }
  if (sampled.empty()) return sampled;
  const auto count = static_cast<int64_t>(wanted.size());
  const at::Tensor index = at::from_blob(wanted.data(), {count}, at::kLong).to(hidden.device());
  const at::Tensor logits =
      model.logits(count == hidden.size(0) ? hidden : hidden.index_select(0, index)).to(at::kCPU);  // [wanted, V]

  const int64_t vocab = model.config().vocab_size;
  auto* data = logits.data_ptr<float>();
  at::parallel_for(0, static_cast<int64_t>(sampled.size()), 1, [&](int64_t first, int64_t past) {
    for (int64_t i = first; i < past; ++i) {
      Sampled& one = sampled[static_cast<size_t>(i)];
      Sequence& sequence = *one.sequence;
      float* const own = data + one.first * vocab;
      const auto choose = [&] {
        if (sequence.search) {
          sequence.search->step(own, vocab);
        } else {
          one.choice = sequence.sampler.next(own, vocab, sequence.mask.empty() ? nullptr : sequence.mask.data());
        }
      };
      try {
        named(sequence, choose);
      } catch (...) {
        one.error = std::current_exception();
      }
    }
  });
  return sampled;
}

void score_prompt(const Model& model, const Share& share, const at::Tensor& hidden, const CancelFlag& cancel) {
  Sequence& sequence = *share.sequence;
  const std::vector<int64_t>& prompt = sequence.request.prompt;
  const int64_t vocab = model.config().vocab_size;
  const auto tokens = static_cast<int64_t>(share.tokens.size());
  const int64_t first = share.last + 1 - tokens;
  const int64_t scored = std::min(tokens, static_cast<int64_t>(prompt.size()) - 1 - sequence.prompted);
  for (int64_t begin = 0; begin < scored; begin += kScored) {
    cancel.check();
    const int64_t count = std::min(kScored, scored - begin);
    const at::Tensor logits = model.logits(hidden.narrow(0, first + begin, count)).to(at::kCPU);  // [count, V]
    const auto* own = logits.const_data_ptr<float>();
    for (int64_t i = 0; i < count; ++i) {
      const auto next = static_cast<size_t>(sequence.prompted + begin + i + 1);
      named(sequence,
            [&] { add_score(own + i * vocab, vocab, prompt[next], sequence.prompt_logprobs, sequence.prompt_scores); });
    }
  }
}

}  // namespace neox
