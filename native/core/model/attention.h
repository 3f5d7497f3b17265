// Attention of a packed batch in one layer, forward and backward, on one of two paths: the kernels of our own (CPU) or
// plain ATen operators (any device; the reference that the kernels are tested against).
//
// qkv is [M, N, 3, D], as the fused projection gives it (head by head: query, key, value). Rotary embedding is applied
// to it in place. A prefix's keys are used as they are: they live in post-rotary space. Text token j of a row has
// position P + past + j.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "core/kv/past.h"
#include "core/model/config.h"
#include "core/model/rotary.h"

namespace neox {

class Attention {
 public:
  Attention(const NeoXConfig& config, Rotary rotary, bool use_kernels)
      : config_(config), rotary_(std::move(rotary)), use_kernels_(use_kernels) {}

  // Rotates queries and keys in place and, for rows with a cache, appends their keys and values to it (the cache must
  // have room; its length is not changed here).
  void rotate_and_store(at::Tensor& qkv, const std::vector<Row>& rows, int64_t layer) const;

  // -> [M, H]
  at::Tensor forward(const at::Tensor& qkv, const std::vector<Row>& rows, int64_t layer) const;

  struct Gradients {
    at::Tensor qkv;     // [M, N, 3, D], before the rotation; undefined when only the prefix's were wanted
    at::Tensor prefix;  // [2, N, P, D] float32, summed over the rows
  };
  // The gradients given grad_out [M, H]. Rows must have no cache and share one prefix.
  Gradients backward(const at::Tensor& grad_out, const at::Tensor& qkv, const std::vector<Row>& rows, int64_t layer,
                     bool prefix_only) const;

 private:
  void rotate(at::Tensor& qkv, const std::vector<Row>& rows, bool inverse) const;

  NeoXConfig config_;
  Rotary rotary_;
  bool use_kernels_;
};

}  // namespace neox
