#include "core/generation/generate.h"

#include <algorithm>

#include "core/generation/batch.h"

namespace neox {
namespace {

struct ActiveRow {
  size_t request = 0;
  Past cache;
  Sampler sampler;
  std::vector<int64_t> input;  // what goes through the model next
};

ActiveRow start(const KeyValueShape& shape, const GenerationRequest& request, size_t index) {
  const std::vector<int64_t>& prompt = request.prompt;
  ActiveRow row{index, request.past, Sampler(request.sampling, prompt), {}};
  row.input.assign(prompt.begin() + request.past_tokens, prompt.end());
  // The whole of what the row may need, so that its cache is not copied as it grows.
  const int64_t room = shape.max_positions - row.cache.positions();
  row.cache.reserve(shape, std::min(room, static_cast<int64_t>(row.input.size()) + request.max_new_tokens));
  return row;
}

}  // namespace

std::vector<GenerationResult> generate(const Model& model, const std::vector<GenerationRequest>& requests,
                                       const CancelFlag& cancel,
                                       const std::function<void(int64_t, const TokenChoice&)>& on_token) {
  const ModelConfig& config = model.config();
  std::vector<GenerationResult> results(requests.size());
  std::vector<ActiveRow> active;
  for (size_t i = 0; i < requests.size(); ++i) {
    if (requests[i].max_new_tokens > 0) active.push_back(start(model.kv_shape(), requests[i], i));
  }

  // Takes one token for a row from its logits; true where the row goes on.
  const auto take = [&](ActiveRow& row, float* logits) {
    const GenerationRequest& request = requests[row.request];
    GenerationResult& result = results[row.request];
    const TokenChoice choice = for_row(row.request, [&] { return row.sampler.next(logits, config.vocab_size); });
    const bool stopped = request.stop != nullptr && request.stop->cancelled();
    if (stopped || row.sampler.ends(choice.token)) {
      result.reason = FinishReason::kStop;
      return false;
    }
    result.tokens.push_back(choice.token);
    if (request.sampling.logprobs >= 0) result.scores.add(choice.logprob, choice.top);
    on_token(static_cast<int64_t>(row.request), choice);
    row.input.assign(1, choice.token);
    return row.sampler.generated() < request.max_new_tokens && row.cache.positions() < config.max_positions;
  };

  while (!active.empty()) {
    cancel.check();
    std::vector<RowInput> inputs;
    for (ActiveRow& row : active) inputs.push_back({&row.cache, &row.input});
    std::vector<ActiveRow> left;
    for (size_t begin = 0; begin < active.size();) {
      const size_t end = batch_end(inputs, begin);
      const std::vector<RowInput> part(inputs.begin() + static_cast<std::ptrdiff_t>(begin),
                                       inputs.begin() + static_cast<std::ptrdiff_t>(end));
      const at::Tensor logits = last_logits(model, part, cancel);  // [rows, V]
      auto* data = logits.data_ptr<float>();
      for (; begin < end; ++begin, data += config.vocab_size) {
        if (take(active[begin], data)) left.push_back(std::move(active[begin]));
      }
    }
    active = std::move(left);
  }
  return results;
}

}  // namespace neox
