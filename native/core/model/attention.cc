#include "core/model/attention.h"

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/kernels/element.h"
#include "core/kernels/kernels.h"
#include "core/model/attention_aten.h"

namespace neox {
namespace {

using kernels::AttentionTask;
using kernels::KeyValueSpan;

// Address of element [layer, 0 (keys) or 1 (values), head, 0, 0] of a [L, 2, N, capacity, D] tensor.
const char* head_of(const at::Tensor& keys_values, int64_t layer, int64_t which, int64_t head) {
  const int64_t offset = layer * keys_values.stride(0) + which * keys_values.stride(1) + head * keys_values.stride(2);
  return static_cast<const char*>(keys_values.const_data_ptr()) + offset * keys_values.element_size();
}

KeyValueSpan span_of(const at::Tensor& keys_values, int64_t layer, int64_t head, int64_t length) {
  return {head_of(keys_values, layer, 0, head), head_of(keys_values, layer, 1, head), keys_values.stride(3), length};
}

// The task of one head of one row, without what backward adds.
AttentionTask task_of(const NeoXConfig& c, const at::Tensor& qkv, const Row& row, int64_t layer, int64_t head) {
  const int64_t item = qkv.element_size();
  const char* base =
      static_cast<const char*>(qkv.const_data_ptr()) + (row.first * c.num_heads + head) * 3 * c.head_size * item;
  AttentionTask task;
  task.element = kernels::element_of(qkv.scalar_type());
  task.head_size = c.head_size;
  task.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(c.head_size)));
  task.queries = base;
  task.query_stride = c.num_heads * 3 * c.head_size;
  task.tokens = row.tokens;
  if (row.block != nullptr) task.prefix = span_of(row.block->keys_values, layer, head, row.block->length);
  if (row.past != nullptr) {
    task.text = span_of(row.past->storage->keys_values, layer, head, row.past->length + row.tokens);
  } else {
    task.text = {base + c.head_size * item, base + 2 * c.head_size * item, task.query_stride, row.tokens};
  }
  return task;
}

// Scratch memory of the current thread, kept from call to call.
float* scratch_memory(int64_t floats) {
  static thread_local std::vector<float> memory;
  if (static_cast<int64_t>(memory.size()) < floats) memory.resize(static_cast<size_t>(floats));
  return memory.data();
}

// [heads, P + length, D] of the keys or the values that a row without kernels sees.
at::Tensor joined(const at::Tensor& text, const Row& row, int64_t layer, int64_t which) {
  if (row.block == nullptr) return text;
  return at::cat({row.block->keys_values[layer][which], text}, 1);
}

struct RowViews {
  at::Tensor q, k, v;  // [N, T, D]; [N, S, D]; [N, S, D]
};

RowViews views_of(const at::Tensor& qkv, const Row& row, int64_t layer) {
  const at::Tensor own = qkv.narrow(0, row.first, row.tokens);  // [T, N, 3, D]
  const auto part = [&](int64_t which) { return own.select(2, which).transpose(0, 1); };
  if (row.past == nullptr) return {part(0), joined(part(1), row, layer, 0), joined(part(2), row, layer, 1)};
  const at::Tensor cached =
      row.past->storage->keys_values[layer].narrow(2, 0, row.past->length + row.tokens);  // [2, N, S, D]
  return {part(0), joined(cached[0], row, layer, 0), joined(cached[1], row, layer, 1)};
}

}  // namespace

void Attention::rotate(at::Tensor& qkv, const std::vector<Row>& rows, bool inverse) const {
  const int64_t half = rotary_.half();
  const int64_t item = qkv.element_size();
  const int64_t token_bytes = config_.num_heads * 3 * config_.head_size * item;
  const auto& table = kernels::kernels();
  for (const Row& row : rows) {
    const Rotary::Angles angles = rotary_.angles(row.start_position(), row.tokens);
    if (!use_kernels_) {
      const at::Tensor own = qkv.narrow(0, row.first, row.tokens);  // [T, N, 3, D]
      attention_aten::rotate(own.narrow(2, 0, 2), angles.table.cos.narrow(0, angles.line, row.tokens),
                             angles.table.sin.narrow(0, angles.line, row.tokens), inverse);
      continue;
    }
    const float* cos = angles.table.cos.const_data_ptr<float>() + angles.line * half;
    const float* sin = angles.table.sin.const_data_ptr<float>() + angles.line * half;
    char* base = static_cast<char*>(qkv.mutable_data_ptr()) + row.first * token_bytes;
    at::parallel_for(0, row.tokens, 16, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        char* token = base + t * token_bytes;
        table.rotary({kernels::element_of(qkv.scalar_type()), token, token + config_.head_size * item,
                      3 * config_.head_size, config_.num_heads, half, cos + t * half, sin + t * half, inverse});
      }
    });
  }
}

void Attention::rotate_and_store(at::Tensor& qkv, const std::vector<Row>& rows, int64_t layer) const {
  rotate(qkv, rows, false);
  for (const Row& row : rows) {
    if (row.past == nullptr) continue;
    // [T, N, 2, D] -> [2, N, T, D]
    const at::Tensor fresh = qkv.narrow(0, row.first, row.tokens).narrow(2, 1, 2);
    if (!use_kernels_) {
      row.past->storage->keys_values[layer].narrow(2, row.past->length, row.tokens).copy_(fresh.permute({2, 1, 0, 3}));
      continue;
    }
    const at::Tensor& store = row.past->storage->keys_values;
    const int64_t bytes = config_.head_size * qkv.element_size();
    const auto* source = static_cast<const char*>(fresh.const_data_ptr());
    at::parallel_for(0, row.tokens, 16, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        for (int64_t head = 0; head < config_.num_heads; ++head) {
          for (int64_t which = 0; which < 2; ++which) {
            char* slot = const_cast<char*>(head_of(store, layer, which, head)) + (row.past->length + t) * bytes;
            std::memcpy(slot, source + ((t * config_.num_heads + head) * 3 + which) * bytes,
                        static_cast<size_t>(bytes));
          }
        }
      }
    });
  }
}

at::Tensor Attention::forward(const at::Tensor& qkv, const std::vector<Row>& rows, int64_t layer) const {
  at::Tensor out = at::empty({qkv.size(0), config_.hidden_size}, qkv.options());
  if (!use_kernels_) {
    for (const Row& row : rows) {
      const RowViews view = views_of(qkv, row, layer);
      out.narrow(0, row.first, row.tokens)
          .view({row.tokens, config_.num_heads, config_.head_size})
          .copy_(attention_aten::forward(view.q, view.k, view.v).transpose(0, 1));
    }
    return out;
  }
  const int64_t item = qkv.element_size();
  auto* base = static_cast<char*>(out.mutable_data_ptr());
  const auto& table = kernels::kernels();
  const auto tasks = static_cast<int64_t>(rows.size()) * config_.num_heads;
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Row& row = rows[static_cast<size_t>(i / config_.num_heads)];
      const int64_t head = i % config_.num_heads;
      AttentionTask task = task_of(config_, qkv, row, layer, head);
      task.out = base + (row.first * config_.hidden_size + head * config_.head_size) * item;
      task.out_stride = config_.hidden_size;
      table.attention_forward(task, scratch_memory(table.attention_forward_scratch(task)));
    }
  });
  return out;
}

Attention::Gradients Attention::backward(const at::Tensor& grad_out, const at::Tensor& qkv,
                                         const std::vector<Row>& rows, int64_t layer, bool prefix_only) const {
  const int64_t heads = config_.num_heads;
  const int64_t dim = config_.head_size;
  const int64_t prefix_length = rows.empty() || rows[0].block == nullptr ? 0 : rows[0].block->length;
  Gradients result;
  if (!prefix_only) result.qkv = at::empty_like(qkv);
  if (!use_kernels_) {
    result.prefix = at::zeros({2, heads, prefix_length, dim}, qkv.options().dtype(at::kFloat));
    for (const Row& row : rows) {
      const RowViews view = views_of(qkv, row, layer);
      const at::Tensor grad = grad_out.narrow(0, row.first, row.tokens).view({row.tokens, heads, dim}).transpose(0, 1);
      const auto g = attention_aten::backward(grad, view.q, view.k, view.v);
      result.prefix[0].add_(g.k.narrow(1, 0, prefix_length));
      result.prefix[1].add_(g.v.narrow(1, 0, prefix_length));
      if (prefix_only) continue;
      at::Tensor own = result.qkv.narrow(0, row.first, row.tokens);  // [T, N, 3, D]
      own.select(2, 0).copy_(g.q.transpose(0, 1));
      own.select(2, 1).copy_(g.k.narrow(1, prefix_length, row.tokens).transpose(0, 1));
      own.select(2, 2).copy_(g.v.narrow(1, prefix_length, row.tokens).transpose(0, 1));
    }
  } else {
    // Each row writes its own part of the prefix's gradient; they are summed in the order of the rows, so that the sum
    // does not depend on the number of threads.
    at::Tensor parts = at::empty({static_cast<int64_t>(rows.size()), 2, heads, prefix_length, dim}, at::kFloat);
    const int64_t item = qkv.element_size();
    const auto* grads = static_cast<const char*>(grad_out.const_data_ptr());
    char* grad_qkv = prefix_only ? nullptr : static_cast<char*>(result.qkv.mutable_data_ptr());
    auto* prefix_grads = parts.mutable_data_ptr<float>();
    const auto& table = kernels::kernels();
    at::parallel_for(0, static_cast<int64_t>(rows.size()) * heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t r = i / heads;
        const int64_t head = i % heads;
        const Row& row = rows[static_cast<size_t>(r)];
        AttentionTask task = task_of(config_, qkv, row, layer, head);
        task.out_stride = config_.hidden_size;
        task.grad_out = grads + (row.first * config_.hidden_size + head * dim) * item;
        if (!prefix_only) {
          task.grad_stride = task.query_stride;
          task.grad_queries = grad_qkv + (row.first * heads + head) * 3 * dim * item;
          task.grad_keys = static_cast<char*>(task.grad_queries) + dim * item;
          task.grad_values = static_cast<char*>(task.grad_queries) + 2 * dim * item;
        }
        task.grad_prefix_keys = prefix_grads + ((r * 2 + 0) * heads + head) * prefix_length * dim;
        task.grad_prefix_values = prefix_grads + ((r * 2 + 1) * heads + head) * prefix_length * dim;
        table.attention_backward(task, scratch_memory(table.attention_backward_scratch(task)));
      }
    });
    result.prefix = parts.sum(0);
  }
  if (!prefix_only) rotate(result.qkv, rows, true);
  return result;
}

}  // namespace neox
