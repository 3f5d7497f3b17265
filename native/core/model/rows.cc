#include "core/model/rows.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "core/error.h"

namespace neox {

void RowCache::reserve(const NeoXConfig& config, int64_t tokens, const at::TensorOptions& options) {
  const int64_t needed = length + tokens;
  if (storage && storage->used == length && storage->capacity >= needed) return;
  auto grown = std::make_shared<CacheStorage>();
  // Doubling keeps the copies of a growing cache linear in its length; a first use gets what it asked for, and a fork
  // no more than what it is a fork of.
  int64_t doubled = 0;
  if (storage) doubled = storage->used == length ? 2 * storage->capacity : std::min(2 * needed, storage->capacity);
  grown->capacity = std::min(std::max({needed, doubled, int64_t{16}}), std::max(config.max_positions, needed));
  grown->keys_values = at::empty({config.num_layers, 2, config.num_heads, grown->capacity, config.head_size}, options);
  grown->used = length;
  if (length > 0) grown->keys_values.narrow(3, 0, length).copy_(storage->keys_values.narrow(3, 0, length));
  storage = std::move(grown);
}

void RowCache::claim(const NeoXConfig& config, int64_t tokens, const at::TensorOptions& options) {
  reserve(config, tokens, options);
  storage->used = length + tokens;
}

RowCache RowCache::as_prefix() const {
  if (length == 0) return {prefix, nullptr, 0};
  auto block = std::make_shared<Prefix>();
  block->length = positions();
  const at::Tensor text = storage->keys_values.narrow(3, 0, length);
  block->keys_values = prefix ? at::cat({prefix->keys_values, text}, 3) : text.contiguous();
  return {std::move(block), nullptr, 0};
}

at::Tensor RowCache::read(const NeoXConfig& config) const {
  if (length == 0) return at::zeros({0, config.num_layers, 2, config.num_heads, config.head_size}, at::kFloat);
  // [L, 2, N, T, D] -> [T, L, 2, N, D]
  return storage->keys_values.narrow(3, 0, length).permute({3, 0, 1, 2, 4}).to(at::kCPU, at::kFloat).contiguous();
}

std::shared_ptr<const Prefix> make_prefix(const NeoXConfig& config, const at::Tensor& weights,
                                          const at::TensorOptions& options) {
  const int64_t per_token = config.num_layers * 2 * config.num_heads * config.head_size;
  if (weights.numel() == 0 || weights.numel() % per_token != 0) {
    throw CoreError("NEOX_PREFIX_MISMATCH", "Prefix weights have " + std::to_string(weights.numel()) +
                                                " elements, expected a multiple of " + std::to_string(per_token) +
                                                " (layers x 2 x heads x head size)");
  }
  auto prefix = std::make_shared<Prefix>();
  prefix->length = weights.numel() / per_token;
  const at::Tensor values = weights.view({prefix->length, config.num_layers, 2, config.num_heads, config.head_size})
                                .permute({1, 2, 3, 0, 4});  // [L, 2, N, P, D]
  // Always a copy: for one position the view is contiguous as it is, and would point into the caller's memory.
  prefix->keys_values = at::empty(values.sizes(), options).copy_(values);
  return prefix;
}

}  // namespace neox
