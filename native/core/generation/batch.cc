#include "core/generation/batch.h"

#include <ATen/ops/from_blob.h>

#include <string>

#include "core/base/error.h"

namespace neox {
namespace {

constexpr int64_t kBatchTokens = 2048;

int64_t count_of(const RowInput& row) { return static_cast<int64_t>(row.tokens->size()); }

}  // namespace

size_t batch_end(const std::vector<RowInput>& rows, size_t begin) {
  size_t end = begin;
  int64_t tokens = 0;
  while (end < rows.size() && (end == begin || tokens + count_of(rows[end]) <= kBatchTokens))
    tokens += count_of(rows[end++]);
  return end;
}

at::Tensor hidden_states(const Model& model, const std::vector<RowInput>& rows, Wanted wanted, const CancelFlag& cancel,
                         HiddenLayer* layer) {
  std::vector<int64_t> ids;
  std::vector<Row> batch;
  for (const RowInput& row : rows) {
    batch.push_back({static_cast<int64_t>(ids.size()), count_of(row), row.cache->block.get(), row.cache});
    ids.insert(ids.end(), row.tokens->begin(), row.tokens->end());
  }
  // The embedding reads a row for each, wherever that lies.
  for (const int64_t id : ids) {
    if (id >= 0 && id < model.config().vocab_size) continue;
    throw CoreError("NEOX_BAD_ARGUMENT", "The token id " + std::to_string(id) + " is not in the vocabulary");
  }
  const at::Tensor id_tensor = at::from_blob(ids.data(), {static_cast<int64_t>(ids.size())}, at::kLong);
  return model.forward(id_tensor.to(model.options().device), batch, wanted, cancel, layer);
}

}  // namespace neox
