// The files of NVIDIA FasterTransformer's GPT-NeoX weight directory: raw little-endian arrays without a header.
//
// Shapes: H hidden, N heads, D = H/N, O/I output/input features of a linear layer, T tensor-parallel ranks, P prefix
// length, L layers. Read with numpy.fromfile by examples/pytorch/gptneox/utils/gptneox.py and by GptNeoXWeight.cc.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/checkpoint/mapped_file.h"

namespace neox {

// How a file's elements follow from its source.
enum class FtLayout {
  copy,          // any shape, as it lies
  output_split,  // weight [O, I] -> [I, O/T]; bias [O] -> [O/T]
  input_split,   // weight [O, I] -> [I/T, O]
  qkv,           // weight [N*3*D, I] -> [I, 3, N/T, D]; bias [N*3*D] -> [3, N/T, D]
  bias,          // sum over the sources of (source / divisor), both steps rounded to the file's dtype as numpy does
  prefix,        // [P, L, 2, N, D] -> [L, 2, N/T, P, D]
  zeros,         // a tensor that the checkpoint does not have
};

struct FtFile {
  std::string path;
  FtLayout layout = FtLayout::copy;
  std::vector<TensorEntry> sources;  // one, several for bias, none for prefix and zeros
  at::Tensor prefix;                 // [P, L, 2, N, D] float32, for FtLayout::prefix
  int64_t rank = 0;
  int64_t ranks = 1;     // T
  int64_t heads = 1;     // N, for qkv
  int64_t divisor = 1;   // for bias
  int64_t elements = 0;  // of the file; what the source and the layout give is checked against it
};

// Elements that did not survive the conversion to the file's dtype, and those that were no numbers before it.
struct FtCounts {
  int64_t overflowed = 0;  // finite in the source, infinite in the file
  int64_t non_finite = 0;  // infinite or NaN in the source
};

// A file as a gather from its source: element (j, c) is source[offsets[j] + c] for c < length. The file holds
// [offsets, length], or [length, offsets] when transposed.
struct Gather {
  at::Tensor source;  // contiguous
  std::vector<int64_t> offsets;
  int64_t length = 0;
  bool transposed = false;

  int64_t elements() const { return static_cast<int64_t>(offsets.size()) * length; }
};

// The gather of a file's layout, of as many elements as the file has. A bias is summed in the file's dtype, and what
// its sources lost in the conversion is added to `counts`.
// Throws NEOX_BAD_CHECKPOINT for a source of another shape.
Gather checked_gather(const FtFile& file, at::ScalarType dtype, FtCounts& counts);

}  // namespace neox
