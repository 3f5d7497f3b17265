#include "core/generation/generate.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>

namespace neox {
namespace {

// Tokens of prompts that go through the model at a time: more would only cost memory.
constexpr int64_t kPrefillTokens = 2048;

struct ActiveRow {
  size_t request = 0;
  RowCache cache;
  Sampler sampler;
  std::vector<int64_t> input;  // what goes through the model next
};

// Runs the rows' input through the model and returns the logits [rows, V] of each row's last token.
at::Tensor advance(const GPTNeoX& model, ActiveRow* rows, size_t count, const CancelFlag& cancel) {
  std::vector<int64_t> ids;
  std::vector<int64_t> last;
  std::vector<Row> batch;
  for (size_t i = 0; i < count; ++i) {
    ActiveRow& row = rows[i];
    batch.push_back(
        {static_cast<int64_t>(ids.size()), static_cast<int64_t>(row.input.size()), row.cache.prefix.get(), &row.cache});
    ids.insert(ids.end(), row.input.begin(), row.input.end());
    last.push_back(static_cast<int64_t>(ids.size()) - 1);
  }
  const auto device = model.options().device;
  const at::Tensor id_tensor = at::from_blob(ids.data(), {static_cast<int64_t>(ids.size())}, at::kLong).to(device);
  const at::Tensor hidden = model.forward(id_tensor, batch, cancel);
  if (ids.size() == count) return model.logits(hidden).to(at::kCPU);
  const at::Tensor last_tensor = at::from_blob(last.data(), {static_cast<int64_t>(count)}, at::kLong).to(device);
  return model.logits(hidden.index_select(0, last_tensor)).to(at::kCPU);
}

}  // namespace

std::vector<GenerationResult> generate(const GPTNeoX& model, const std::vector<GenerationRequest>& requests,
                                       const CancelFlag& cancel,
                                       const std::function<void(int64_t, int64_t)>& on_token) {
  const NeoXConfig& config = model.config();
  std::vector<GenerationResult> results(requests.size());
  std::vector<ActiveRow> active;
  for (size_t i = 0; i < requests.size(); ++i) {
    if (requests[i].max_new_tokens == 0) continue;
    ActiveRow row{i, {}, Sampler(requests[i].sampling, requests[i].prompt), requests[i].prompt};
    row.cache.prefix = requests[i].prefix;
    // The whole of what the row may need, so that its cache is never copied.
    const int64_t room = config.max_positions - row.cache.positions();
    const auto wanted = static_cast<int64_t>(requests[i].prompt.size()) + requests[i].max_new_tokens;
    row.cache.reserve(config, std::min(room, wanted), model.tensor_options());
    active.push_back(std::move(row));
  }

  // Takes one token for each of `count` rows from their logits; true where the row goes on.
  const auto take = [&](const at::Tensor& logits, ActiveRow* rows, size_t count) {
    std::vector<bool> going(count);
    auto* data = logits.data_ptr<float>();
    for (size_t i = 0; i < count; ++i) {
      const GenerationRequest& request = requests[rows[i].request];
      GenerationResult& result = results[rows[i].request];
      const int64_t token =
          rows[i].sampler.next(data + static_cast<int64_t>(i) * config.vocab_size, config.vocab_size).token;
      if (rows[i].sampler.ends(token)) {
        result.reason = FinishReason::kStop;
        continue;
      }
      result.tokens.push_back(token);
      on_token(static_cast<int64_t>(rows[i].request), token);
      rows[i].input.assign(1, token);
      going[i] = static_cast<int64_t>(result.tokens.size()) < request.max_new_tokens &&
                 rows[i].cache.positions() < config.max_positions;
    }
    return going;
  };

  std::vector<bool> going;
  for (size_t begin = 0; begin < active.size();) {
    size_t end = begin;
    int64_t tokens = 0;
    while (end < active.size() &&
           (end == begin || tokens + static_cast<int64_t>(active[end].input.size()) <= kPrefillTokens)) {
      tokens += static_cast<int64_t>(active[end++].input.size());
    }
    const auto part = take(advance(model, &active[begin], end - begin, cancel), &active[begin], end - begin);
    going.insert(going.end(), part.begin(), part.end());
    begin = end;
  }
  for (;;) {
    std::vector<ActiveRow> left;
    for (size_t i = 0; i < active.size(); ++i) {
      if (going[i]) left.push_back(std::move(active[i]));
    }
    active = std::move(left);
    if (active.empty()) return results;
    cancel.check();
    going = take(advance(model, active.data(), active.size(), cancel), active.data(), active.size());
  }
}

}  // namespace neox
