#include "core/kv/past.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <string>

#include "core/base/error.h"

namespace neox {

void Past::reserve(const KeyValueShape& shape, int64_t tokens) {
  const int64_t needed = length + tokens;
  if (storage && storage->used == length && storage->capacity >= needed) return;
  auto grown = std::make_shared<KeyValueStorage>();
  // Doubling keeps the copies of a growing storage linear in its length; a first use gets what it asked for, and a fork
  // no more than what it is a fork of.
  int64_t doubled = 0;
  if (storage) doubled = storage->used == length ? 2 * storage->capacity : std::min(2 * needed, storage->capacity);
  grown->capacity = std::min(std::max({needed, doubled, int64_t{16}}), std::max(shape.max_positions, needed));
  grown->keys_values = at::empty({shape.layers, 2, shape.heads, grown->capacity, shape.head_size}, shape.options);
  grown->used = length;
  if (length > 0) grown->keys_values.narrow(3, 0, length).copy_(storage->keys_values.narrow(3, 0, length));
  storage = std::move(grown);
}

void Past::claim(const KeyValueShape& shape, int64_t tokens) {
  reserve(shape, tokens);
  storage->used = length + tokens;
}

Past Past::as_block() const {
  if (length == 0) return {block, nullptr, 0};
  auto whole = std::make_shared<KeyValueBlock>();
  whole->length = positions();
  const at::Tensor text = storage->keys_values.narrow(3, 0, length);
  whole->keys_values = block ? at::cat({block->keys_values, text}, 3) : text.contiguous();
  return {std::move(whole), nullptr, 0};
}

at::Tensor Past::read(const KeyValueShape& shape) const {
  if (length == 0) return at::zeros({0, shape.layers, 2, shape.heads, shape.head_size}, at::kFloat);
  // [L, 2, N, T, D] -> [T, L, 2, N, D]
  return storage->keys_values.narrow(3, 0, length).permute({3, 0, 1, 2, 4}).to(at::kCPU, at::kFloat).contiguous();
}

std::shared_ptr<const KeyValueBlock> make_block(const KeyValueShape& shape, const at::Tensor& weights) {
  const int64_t elements = shape.elements();
  if (weights.numel() == 0 || weights.numel() % elements != 0) {
    throw CoreError("NEOX_PREFIX_MISMATCH", "Prefix weights have " + std::to_string(weights.numel()) +
                                                " elements, expected a multiple of " + std::to_string(elements) +
                                                " (layers x 2 x heads x head size)");
  }
  auto block = std::make_shared<KeyValueBlock>();
  block->length = weights.numel() / elements;
  const at::Tensor values = weights.view({block->length, shape.layers, 2, shape.heads, shape.head_size})
                                .permute({1, 2, 3, 0, 4});  // [L, 2, N, P, D]
  // Always a copy: for one position the view is contiguous as it is, and would point into the caller's memory.
  block->keys_values = at::empty(values.sizes(), shape.options).copy_(values);
  return block;
}

}  // namespace neox
