// What a batch is made of: rows of unequal length, packed one behind the other, each with its own prefix and its own
// cache.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "core/model/config.h"

namespace neox {

// The keys and values of a prefix as attention reads them. Shared by all rows that use it.
struct Prefix {
  at::Tensor keys_values;  // [L, 2, N, P, D] in the model's dtype
  int64_t length = 0;      // P
};

// The growing keys and values of one row.
struct CacheStorage {
  at::Tensor keys_values;  // [L, 2, N, capacity, D] in the model's dtype
  int64_t capacity = 0;
  int64_t used = 0;  // tokens that are written, or will be by who claimed them
};

// A row's past: its prefix and the first `length` tokens of a storage. Copies share the storage; the first to go on
// appends in place, any other copies what it sees first (so a cache can be forked for nothing, and never sees another's
// tokens).
struct RowCache {
  std::shared_ptr<const Prefix> prefix;   // null: none
  std::shared_ptr<CacheStorage> storage;  // null: empty
  int64_t length = 0;

  int64_t positions() const { return (prefix ? prefix->length : 0) + length; }
  // Makes room for `tokens` more.
  void reserve(const NeoXConfig& config, int64_t tokens, const at::TensorOptions& options);
  // The same, and takes the room: a copy that goes on after this call copies, also in the same batch.
  void claim(const NeoXConfig& config, int64_t tokens, const at::TensorOptions& options);
  // The same past in one block that any number of copies go on from without copying it: the whole is its prefix.
  RowCache as_prefix() const;
  // The cached keys and values, without the prefix, in prefix order: [length, L, 2, N, D] float32.
  at::Tensor read(const NeoXConfig& config) const;
};

// One row of a forward pass.
struct Row {
  int64_t first = 0;   // its first token among the M packed ones
  int64_t tokens = 0;  // T
  const Prefix* prefix = nullptr;
  RowCache* cache = nullptr;  // null in training: keys and values are used where they were computed

  int64_t start_position() const { return (prefix ? prefix->length : 0) + (cache ? cache->length : 0); }
};

// Prefix weights [P, L, 2, N, D] float32 as attention reads them.
std::shared_ptr<const Prefix> make_prefix(const NeoXConfig& config, const at::Tensor& weights,
                                          const at::TensorOptions& options);

}  // namespace neox
