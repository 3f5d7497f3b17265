// The files of NVIDIA FasterTransformer's GPT-NeoX weight directory: raw little-endian arrays without a header.
//
// Shapes: H hidden, N heads, D = H/N, O/I output/input features of a linear layer, T tensor-parallel ranks, P prefix
// length, L layers. Read with numpy.fromfile by examples/pytorch/gptneox/utils/gptneox.py and by GptNeoXWeight.cc.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
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

struct FtComparison {
  bool missing = false;
  uint64_t expected_bytes = 0;
  uint64_t actual_bytes = 0;
  int64_t differing = 0;            // elements, counted only when the sizes agree
  double max_abs_difference = 0.0;  // infinity when a number stands against an infinity or a NaN
};

// Called between pieces of a few megabytes with the bytes done since the last call. What it throws comes out unchanged,
// so that it may poll a CancelFlag.
using FtProgress = std::function<void(uint64_t bytes)>;

// Writes one file; it must not exist. dtype is at::kHalf or at::kFloat. Conversion rounds to nearest even and overflows
// to infinity, as numpy's astype does. Memory beyond the mapped source stays within a few tens of megabytes.
FtCounts write_ft_file(const FtFile& file, at::ScalarType dtype, const FtProgress& progress);

// Reads one file back and compares it bit by bit with what write_ft_file would write.
FtComparison compare_ft_file(const FtFile& file, at::ScalarType dtype, const FtProgress& progress);

// Waits until the files and the folder that holds them are on the disk.
void sync_ft_files(const std::vector<std::string>& paths, const std::string& directory);

}  // namespace neox
