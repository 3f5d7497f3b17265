#include "core/fastertransformer/layout.h"

#include <ATen/ops/add.h>
#include <ATen/ops/div.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <utility>

#include "core/base/error.h"
#include "core/checkpoint/convert_elements.h"
#include "core/checkpoint/joined_tensor.h"

namespace neox {
namespace {

[[noreturn]] void fail_shape(const FtFile& file, const at::Tensor& source, const std::string& expected) {
  std::string shape;
  for (const int64_t size : source.sizes()) shape += (shape.empty() ? "" : ", ") + std::to_string(size);
  const std::string name = file.sources.empty() ? "the prefix" : file.sources.front().name;
  throw CoreError("NEOX_BAD_CHECKPOINT", "Expected " + expected + " for " + name + " but its shape is [" + shape + "]");
}

int64_t share(const FtFile& file, const at::Tensor& source, int64_t size, const char* what) {
  if (file.ranks < 1 || file.rank < 0 || file.rank >= file.ranks || size % file.ranks != 0) {
    fail_shape(file, source, std::string(what) + " divisible by " + std::to_string(file.ranks));
  }
  return size / file.ranks;
}

Gather gather_output_split(const FtFile& file, at::Tensor source) {
  if (source.dim() != 1 && source.dim() != 2) fail_shape(file, source, "one or two dimensions");
  const int64_t outputs = share(file, source, source.size(0), "output features");
  Gather gather{std::move(source), {}, 0, false};
  if (gather.source.dim() == 1) {
    gather.offsets = {file.rank * outputs};
    gather.length = outputs;
    return gather;
  }
  gather.transposed = true;
  gather.length = gather.source.size(1);
  for (int64_t j = 0; j < outputs; ++j) gather.offsets.push_back((file.rank * outputs + j) * gather.length);
  return gather;
}

Gather gather_input_split(const FtFile& file, at::Tensor source) {
  if (source.dim() != 2) fail_shape(file, source, "two dimensions");
  const int64_t inputs = share(file, source, source.size(1), "input features");
  Gather gather{std::move(source), {}, inputs, true};
  for (int64_t j = 0; j < gather.source.size(0); ++j) {
    gather.offsets.push_back(j * gather.source.size(1) + file.rank * inputs);
  }
  return gather;
}

Gather gather_qkv(const FtFile& file, at::Tensor source) {
  const bool weight = source.dim() == 2;
  if ((source.dim() != 1 && !weight) || file.heads < 1 || source.size(0) % (3 * file.heads) != 0) {
    fail_shape(file, source, "[3 * " + std::to_string(file.heads) + " heads * head size] output features");
  }
  const int64_t heads = share(file, source, file.heads, "heads");
  const int64_t head_size = source.size(0) / (3 * file.heads);
  const int64_t inputs = weight ? source.size(1) : 1;
  Gather gather{std::move(source), {}, weight ? inputs : head_size, weight};
  for (int64_t kind = 0; kind < 3; ++kind) {  // query, key, value
    for (int64_t head = file.rank * heads; head < (file.rank + 1) * heads; ++head) {
      const int64_t row = (head * 3 + kind) * head_size;
      for (int64_t d = 0; d < (weight ? head_size : 1); ++d) gather.offsets.push_back((row + d) * inputs);
    }
  }
  return gather;
}

Gather gather_prefix(const FtFile& file) {
  const at::Tensor& prefix = file.prefix;  // [P, L, 2, N, D]
  if (prefix.dim() != 5 || prefix.size(2) != 2) fail_shape(file, prefix, "[P, L, 2, N, D]");
  const int64_t length = prefix.size(0), layers = prefix.size(1), all_heads = prefix.size(3),
                head_size = prefix.size(4);
  const int64_t heads = share(file, prefix, all_heads, "heads");
  Gather gather{prefix.contiguous(), {}, head_size, false};
  for (int64_t layer_kind = 0; layer_kind < layers * 2; ++layer_kind) {
    for (int64_t head = file.rank * heads; head < (file.rank + 1) * heads; ++head) {
      for (int64_t p = 0; p < length; ++p) {
        gather.offsets.push_back(((p * layers * 2 + layer_kind) * all_heads + head) * head_size);
      }
    }
  }
  return gather;
}

Gather gather_all(at::Tensor source) {
  const int64_t elements = source.numel();
  return Gather{std::move(source), {0}, elements, false};
}

at::Tensor map_contiguous(const TensorEntry& entry) {
  const at::Tensor tensor = read_tensor(entry, entry.dtype);
  load_pages(tensor);  // the kernels below stride through it
  return tensor;
}

// Rounding each step to the file's dtype is numpy's float16 arithmetic, which NVIDIA's converter uses.
at::Tensor sum_biases(const FtFile& file, at::ScalarType dtype, FtCounts& counts) {
  at::Tensor sum;
  for (const TensorEntry& entry : file.sources) {
    const at::Tensor source = map_contiguous(entry);
    at::Tensor value = at::empty({source.numel()}, at::TensorOptions().dtype(dtype));
    const ConversionCounts converted =
        element_converter(source.scalar_type(), dtype)(source.const_data_ptr(), value.data_ptr(), source.numel());
    counts.overflowed += converted.overflowed;
    counts.non_finite += converted.non_finite;
    if (file.divisor != 1) value = at::div(value, file.divisor);
    if (sum.defined() && sum.numel() != value.numel())
      fail_shape(file, value, std::to_string(sum.numel()) + " elements in every bias");
    sum = sum.defined() ? at::add(sum, value) : value;
  }
  return sum;
}

Gather gather_of(const FtFile& file, at::ScalarType dtype, FtCounts& counts) {
  switch (file.layout) {
    case FtLayout::prefix: return gather_prefix(file);
    case FtLayout::zeros: return gather_all(at::zeros({file.elements}, at::TensorOptions().dtype(dtype)));
    default: break;
  }
  if (file.sources.empty()) throw CoreError("NEOX_NATIVE", "No source given for " + file.path);
  switch (file.layout) {
    case FtLayout::output_split: return gather_output_split(file, map_contiguous(file.sources.front()));
    case FtLayout::input_split: return gather_input_split(file, map_contiguous(file.sources.front()));
    case FtLayout::qkv: return gather_qkv(file, map_contiguous(file.sources.front()));
    case FtLayout::bias: return gather_all(sum_biases(file, dtype, counts));
    default: return gather_all(map_contiguous(file.sources.front()));
  }
}

}  // namespace

Gather checked_gather(const FtFile& file, at::ScalarType dtype, FtCounts& counts) {
  Gather gather = gather_of(file, dtype, counts);
  if (gather.elements() != file.elements) {
    fail_shape(file, gather.source, std::to_string(file.elements) + " elements in " + file.path);
  }
  return gather;
}

}  // namespace neox
