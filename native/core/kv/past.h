// Keys and values in front of the tokens that go through a model: a block that many rows share, a storage that grows
// with one row, and the two together, a row's past.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace neox {

// What keys and values of a model look like.
struct KeyValueShape {
  int64_t layers = 0;         // L
  int64_t heads = 0;          // N
  int64_t head_size = 0;      // D
  int64_t max_positions = 0;  // of a row, block and storage together
  at::TensorOptions options;  // dtype and device

  int64_t elements() const { return layers * 2 * heads * head_size; }  // of one position
};

// Keys and values that any number of rows read and none changes: a task's prefix, or a text that several rows go on
// from.
struct KeyValueBlock {
  at::Tensor keys_values;  // [L, 2, N, P, D] in the model's dtype
  int64_t length = 0;      // P
};

// The growing keys and values of one row.
struct KeyValueStorage {
  at::Tensor keys_values;  // [L, 2, N, capacity, D] in the model's dtype
  int64_t capacity = 0;
  int64_t used = 0;  // tokens that are written, or will be by who claimed them
};

// What a row has in front of it: a block and the first `length` tokens of a storage. Copies share the storage; the
// first to go on appends in place, any other copies what it sees first (so a past can be forked for nothing, and never
// sees another's tokens).
struct Past {
  std::shared_ptr<const KeyValueBlock> block;  // null: none
  std::shared_ptr<KeyValueStorage> storage;    // null: empty
  int64_t length = 0;

  int64_t positions() const { return (block ? block->length : 0) + length; }
  // Makes room for `tokens` more.
  void reserve(const KeyValueShape& shape, int64_t tokens);
  // The same, and takes the room: a copy that goes on after this call copies, also in the same batch.
  void claim(const KeyValueShape& shape, int64_t tokens);
  // The same past in one block that any number of copies go on from without copying it.
  Past as_block() const;
  // The keys and values of the storage, without the block, in the order of prefix weights: [length, L, 2, N, D]
  // float32.
  at::Tensor read(const KeyValueShape& shape) const;
};

// One row of a forward pass.
struct Row {
  int64_t first = 0;   // its first token among the M packed ones
  int64_t tokens = 0;  // T
  const KeyValueBlock* block = nullptr;
  Past* past = nullptr;  // null in training: keys and values are used where they were computed

  int64_t start_position() const { return (block ? block->length : 0) + (past ? past->length : 0); }
};

// Prefix weights [P, L, 2, N, D] float32 as attention reads them.
// Throws NEOX_PREFIX_MISMATCH where their number is no multiple of a position's.
std::shared_ptr<const KeyValueBlock> make_block(const KeyValueShape& shape, const at::Tensor& weights);

}  // namespace neox
