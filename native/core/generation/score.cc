#include "core/generation/score.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <string>

#include "core/base/error.h"
#include "core/generation/batch.h"

namespace neox {
namespace {

// Positions whose logits are in memory at a time.
constexpr size_t kPositions = 128;

struct Target {
  int64_t position = 0;  // among the tokens of the batch
  int64_t token = 0;
  size_t row = 0;
};

void score_targets(const Model& model, const at::Tensor& hidden, const std::vector<Target>& targets, int64_t top,
                   std::vector<RowScores>& results, const CancelFlag& cancel) {
  const int64_t vocab = model.config().vocab_size;
  for (size_t begin = 0; begin < targets.size(); begin += kPositions) {
    cancel.check();
    const size_t end = std::min(begin + kPositions, targets.size());
    std::vector<int64_t> positions;
    for (size_t i = begin; i < end; ++i) positions.push_back(targets[i].position);
    const at::Tensor index = at::from_blob(positions.data(), {static_cast<int64_t>(positions.size())}, at::kLong);
    const at::Tensor logits = model.logits(hidden.index_select(0, index.to(hidden.device()))).to(at::kCPU);
    const auto* row = logits.const_data_ptr<float>();
    for (size_t i = begin; i < end; ++i, row += vocab) {
      const Target& target = targets[i];
      RowScores& result = results[target.row];
      const bool greedy = for_row(target.row, [&] { return add_score(row, vocab, target.token, top, result.scores); });
      result.greedy.push_back(greedy ? 1 : 0);
    }
  }
}

}  // namespace

std::vector<RowScores> score(const Model& model, std::vector<ScoreRow>& rows, int64_t top, bool keep,
                             const CancelFlag& cancel) {
  std::vector<RowScores> results(rows.size());
  std::vector<RowInput> inputs;
  std::vector<size_t> numbers;  // of the rows in inputs
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].tokens.empty()) continue;
    inputs.push_back({&rows[i].cache, &rows[i].tokens});
    numbers.push_back(i);
  }
  for (size_t begin = 0; begin < inputs.size();) {
    const size_t end = batch_end(inputs, begin);
    const std::vector<RowInput> part(inputs.begin() + static_cast<std::ptrdiff_t>(begin),
                                     inputs.begin() + static_cast<std::ptrdiff_t>(end));
    const at::Tensor hidden = hidden_states(model, part, Wanted::kAll, cancel);  // [M, H]
    std::vector<Target> targets;
    int64_t position = 0;
    for (; begin < end; ++begin) {
      for (const int64_t token : rows[numbers[begin]].targets) {
        if (token >= model.config().vocab_size) {
          throw CoreError("NEOX_BAD_ARGUMENT", "The target " + std::to_string(token) + " is not in the vocabulary");
        }
        if (token >= 0) targets.push_back({position, token, numbers[begin]});
        ++position;
      }
      if (!keep) rows[numbers[begin]].cache = {};
    }
    score_targets(model, hidden, targets, top, results, cancel);
  }
  return results;
}

}  // namespace neox
