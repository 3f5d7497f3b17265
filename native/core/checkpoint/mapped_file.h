// Tensors over memory-mapped files. A tensor made here keeps its mapping alive; the file is read only when pages are
// touched.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace neox {

// Where one tensor lies in a file; filled from lib/checkpoint/tensor.ts's TensorEntry.
struct TensorEntry {
  std::string name;
  std::string file;
  std::string identity;  // of the file when its header was read; empty: any will do
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> shape;
  std::vector<int64_t> stride;  // in elements; empty: row-major
  uint64_t offset = 0;          // bytes from the start of the file
  uint64_t byte_length = 0;     // bytes spanned from offset
  // A joined tensor does not lie in one run: its pieces are put together along `axis` and then given `shape`; no
  // pieces: zeros.
  bool joined = false;
  std::vector<TensorEntry> pieces;
  int64_t axis = 0;
  double scale = 1.0;  // factor of every element
};

// The tensor as it lies on disk, mapped where its alignment allows and copied where it does not.
// Throws CoreError: NEOX_BAD_CHECKPOINT when the entry reaches outside of its file or its shape does not fit its bytes,
// NEOX_IO when the file cannot be read or is not the one whose header was read.
// For entries that are neither joined nor scaled; read_tensor() takes all.
at::Tensor map_tensor(const TensorEntry& entry);

// Brings all pages of a mapped tensor into memory, in order: much faster than a fault for each when they are cold or
// when they will be read in another order.
void load_pages(const at::Tensor& mapped);

// Tells the kernel that the pages of a mapped tensor are not needed for now, so that they leave the resident set. They
// are read again when touched. Does nothing for memory that is not a file mapping made here.
void release_pages(const at::Tensor& mapped);

}  // namespace neox
