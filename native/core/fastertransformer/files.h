// Writing the files of a FasterTransformer weight directory, and comparing them with what would be written.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/fastertransformer/layout.h"

namespace neox {

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
