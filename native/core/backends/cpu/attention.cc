// Attention with the kernels of our own: each head of each row is a task.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sum.h>

#include <cmath>
#include <cstring>

#include "core/backends/cpu/cpu_backend.h"
#include "core/kernels/element.h"
#include "core/kernels/kernels.h"

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
AttentionTask task_of(const at::Tensor& qkv, const Row& row, int64_t layer, int64_t head) {
  const int64_t heads = qkv.size(1);
  const int64_t head_size = qkv.size(3);
  const int64_t item = qkv.element_size();
  const char* base = static_cast<const char*>(qkv.const_data_ptr()) + (row.first * heads + head) * 3 * head_size * item;
  AttentionTask task;
  task.element = kernels::element_of(qkv.scalar_type());
  task.head_size = head_size;
  task.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_size)));
  task.queries = base;
  task.query_stride = heads * 3 * head_size;
  task.tokens = row.tokens;
  if (row.block != nullptr) task.prefix = span_of(row.block->keys_values, layer, head, row.block->length);
  if (row.past != nullptr) {
    task.text = span_of(row.past->storage->keys_values, layer, head, row.past->length + row.tokens);
  } else {
    task.text = {base + head_size * item, base + 2 * head_size * item, task.query_stride, row.tokens};
  }
  return task;
}

// Scratch memory of the current thread, kept from call to call.
float* scratch_memory(int64_t floats) {
  static thread_local std::vector<float> memory;
  if (static_cast<int64_t>(memory.size()) < floats) memory.resize(static_cast<size_t>(floats));
  return memory.data();
}

}  // namespace

void CpuBackend::rotate(at::Tensor& qkv, const std::vector<Row>& rows, const std::vector<RotaryAngles>& angles,
                        bool inverse) const {
  const int64_t heads = qkv.size(1);
  const int64_t head_size = qkv.size(3);
  const int64_t item = qkv.element_size();
  const int64_t token_bytes = heads * 3 * head_size * item;
  const auto element = kernels::element_of(qkv.scalar_type());
  const auto& table = kernels::kernels();
  auto* data = static_cast<char*>(qkv.mutable_data_ptr());
  for (size_t i = 0; i < rows.size(); ++i) {
    const int64_t half = angles[i].cos.size(1);
    const float* cos = angles[i].cos.const_data_ptr<float>() + angles[i].line * half;
    const float* sin = angles[i].sin.const_data_ptr<float>() + angles[i].line * half;
    char* base = data + rows[i].first * token_bytes;
    at::parallel_for(0, rows[i].tokens, 16, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        char* token = base + t * token_bytes;
        table.rotary({element, token, token + head_size * item, 3 * head_size, heads, half, cos + t * half,
                      sin + t * half, inverse});
      }
    });
  }
}

void CpuBackend::store(const at::Tensor& qkv, const std::vector<Row>& rows, int64_t layer) const {
  const int64_t heads = qkv.size(1);
  const int64_t bytes = qkv.size(3) * qkv.element_size();  // of one head's keys of a token
  for (const Row& row : rows) {
    if (row.past == nullptr) continue;
    const at::Tensor& storage = row.past->storage->keys_values;
    const auto* source = static_cast<const char*>(qkv.const_data_ptr()) + row.first * heads * 3 * bytes;
    at::parallel_for(0, row.tokens, 16, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        for (int64_t head = 0; head < heads; ++head) {
          for (int64_t which = 0; which < 2; ++which) {
            char* slot = const_cast<char*>(head_of(storage, layer, which, head)) + (row.past->length + t) * bytes;
            std::memcpy(slot, source + ((t * heads + head) * 3 + 1 + which) * bytes, static_cast<size_t>(bytes));
          }
        }
      }
    });
  }
}

at::Tensor CpuBackend::attention(const at::Tensor& qkv, const std::vector<Row>& rows, int64_t layer) const {
  const int64_t heads = qkv.size(1);
  const int64_t head_size = qkv.size(3);
  at::Tensor out = at::empty({qkv.size(0), heads * head_size}, qkv.options());
  const int64_t item = qkv.element_size();
  auto* base = static_cast<char*>(out.mutable_data_ptr());
  const auto& table = kernels::kernels();
  at::parallel_for(0, static_cast<int64_t>(rows.size()) * heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Row& row = rows[static_cast<size_t>(i / heads)];
      const int64_t head = i % heads;
      AttentionTask task = task_of(qkv, row, layer, head);
      task.out = base + (row.first * heads + head) * head_size * item;
      task.out_stride = heads * head_size;
      table.attention_forward(task, scratch_memory(table.attention_forward_scratch(task)));
    }
  });
  return out;
}

AttentionGradients CpuBackend::attention_backward(const at::Tensor& grad_out, const at::Tensor& qkv,
                                                  const std::vector<Row>& rows, int64_t layer, bool block_only) const {
  const int64_t heads = qkv.size(1);
  const int64_t head_size = qkv.size(3);
  const int64_t length = rows.empty() || rows[0].block == nullptr ? 0 : rows[0].block->length;
  AttentionGradients result;
  if (!block_only) result.qkv = at::empty_like(qkv);
  // Each row writes its own part of the block's gradient; they are summed in the order of the rows, so that the sum
  // does not depend on the number of threads.
  at::Tensor parts = at::empty({static_cast<int64_t>(rows.size()), 2, heads, length, head_size}, at::kFloat);
  const int64_t item = qkv.element_size();
  const auto* grads = static_cast<const char*>(grad_out.const_data_ptr());
  char* grad_qkv = block_only ? nullptr : static_cast<char*>(result.qkv.mutable_data_ptr());
  auto* block_grads = parts.mutable_data_ptr<float>();
  const auto& table = kernels::kernels();
  at::parallel_for(0, static_cast<int64_t>(rows.size()) * heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t r = i / heads;
      const int64_t head = i % heads;
      const Row& row = rows[static_cast<size_t>(r)];
      AttentionTask task = task_of(qkv, row, layer, head);
      task.out_stride = heads * head_size;
      task.grad_out = grads + (row.first * heads + head) * head_size * item;
      if (!block_only) {
        task.grad_stride = task.query_stride;
        task.grad_queries = grad_qkv + (row.first * heads + head) * 3 * head_size * item;
        task.grad_keys = static_cast<char*>(task.grad_queries) + head_size * item;
        task.grad_values = static_cast<char*>(task.grad_queries) + 2 * head_size * item;
      }
      task.grad_prefix_keys = block_grads + ((r * 2 + 0) * heads + head) * length * head_size;
      task.grad_prefix_values = block_grads + ((r * 2 + 1) * heads + head) * length * head_size;
      table.attention_backward(task, scratch_memory(table.attention_backward_scratch(task)));
    }
  });
  result.block = parts.sum(0);
  return result;
}

}  // namespace neox
