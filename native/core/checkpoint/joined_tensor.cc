#include "core/checkpoint/joined_tensor.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/checkpoint/convert_elements.h"

namespace neox {
namespace {

constexpr int64_t kTile = 64;  // rows and columns transposed at a time: two tiles stay in the L1 cache

[[noreturn]] void fail_join(const TensorEntry& entry, const std::string& problem) {
  throw CoreError("NEOX_BAD_CHECKPOINT", "The pieces of tensor " + entry.name + " do not fit: " + problem);
}

int64_t count_elements(const TensorEntry& entry, const std::vector<int64_t>& shape) {
  int64_t elements = 1;
  for (const int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(elements, size, &elements)) fail_join(entry, "a shape is too large");
  }
  return elements;
}

// Where the blocks that the dimensions other than `a` and `b` count begin, in elements of target and source.
std::vector<std::pair<int64_t, int64_t>> block_offsets(const at::Tensor& target, const at::Tensor& source, int64_t a,
                                                       int64_t b) {
  std::vector<std::pair<int64_t, int64_t>> offsets = {{0, 0}};
  for (int64_t d = 0; d < target.dim(); ++d) {
    if (d == a || d == b) continue;
    std::vector<std::pair<int64_t, int64_t>> next;
    for (const auto& [to, from] : offsets) {
      for (int64_t i = 0; i < target.size(d); ++i) {
        next.emplace_back(to + i * target.stride(d), from + i * source.stride(d));
      }
    }
    offsets = std::move(next);
  }
  return offsets;
}

// target = source, where target's last dimension and source's dimension `inner` are those without gaps.
// at::Tensor::copy_ steps through such a pair element by element. T is of the size of target's elements.
template <typename T>
void copy_transposed(const at::Tensor& target, const at::Tensor& source, int64_t inner) {
  const int64_t last = target.dim() - 1;
  const int64_t rows = target.size(inner), columns = target.size(last);
  const int64_t row_step = target.stride(inner), column_step = source.stride(last);
  const int64_t item = source.element_size();
  ElementConverter* const convert = element_converter(source.scalar_type(), target.scalar_type());
  const auto blocks = block_offsets(target, source, inner, last);
  const int64_t strips = (rows + kTile - 1) / kTile;
  const auto jobs = static_cast<int64_t>(blocks.size()) * strips;
  at::parallel_for(0, jobs, 1, [&](int64_t first_job, int64_t last_job) {
    alignas(64) T tile[kTile * kTile];
    for (int64_t job = first_job; job < last_job; ++job) {
      const auto& [to, from] = blocks[static_cast<size_t>(job / strips)];
      const int64_t row = job % strips * kTile;
      const int64_t height = std::min(kTile, rows - row);
      T* const out = static_cast<T*>(target.data_ptr()) + to + row * row_step;
      const char* const in = static_cast<const char*>(source.const_data_ptr()) + (from + row) * item;
      for (int64_t column = 0; column < columns; column += kTile) {
        const int64_t width = std::min(kTile, columns - column);
        for (int64_t c = 0; c < width; ++c) convert(in + (column + c) * column_step * item, tile + c * kTile, height);
        for (int64_t r = 0; r < height; ++r) {
          for (int64_t c = 0; c < width; ++c) out[r * row_step + column + c] = tile[c * kTile + r];
        }
      }
    }
  });
}

void copy_piece(const at::Tensor& target, const at::Tensor& source) {
  const int64_t last = source.dim() - 1;
  int64_t inner = last;
  for (int64_t d = 0; d < last; ++d) {
    if (source.stride(d) == 1 && source.stride(last) != 1) inner = d;
  }
  if (inner != last && target.scalar_type() == at::kHalf) {
    copy_transposed<uint16_t>(target, source, inner);
  } else if (inner != last && target.scalar_type() == at::kFloat) {
    copy_transposed<uint32_t>(target, source, inner);
  } else {
    target.copy_(source);
  }
}

at::Tensor join(const TensorEntry& entry, at::ScalarType dtype) {
  const auto options = at::TensorOptions().dtype(dtype);
  if (entry.pieces.empty()) return at::zeros(entry.shape, options);
  const auto axis = static_cast<size_t>(entry.axis);
  std::vector<int64_t> sizes = entry.pieces.front().shape;
  if (entry.axis < 0 || axis >= sizes.size()) fail_join(entry, "they have no dimension " + std::to_string(entry.axis));
  sizes[axis] = 0;
  for (const TensorEntry& piece : entry.pieces) {
    std::vector<int64_t> others = piece.shape;
    if (others.size() != sizes.size() || __builtin_add_overflow(sizes[axis], others[axis], &sizes[axis])) {
      fail_join(entry, "their shapes differ");
    }
    others[axis] = sizes[axis];
    if (others != sizes) fail_join(entry, "their shapes differ");
  }
  const int64_t elements = count_elements(entry, entry.shape);
  const int64_t found = count_elements(entry, sizes);
  if (elements != found) {
    fail_join(entry, "they have " + std::to_string(found) + " elements, it has " + std::to_string(elements));
  }
  // Mapped, and thereby compared with their files, before there is memory for what they claim to hold.
  std::vector<at::Tensor> pieces;
  for (const TensorEntry& piece : entry.pieces) pieces.push_back(map_tensor(piece));
  const at::Tensor joined = at::empty(sizes, options);
  int64_t start = 0;
  for (const at::Tensor& mapped : pieces) {
    load_pages(mapped);
    copy_piece(joined.narrow(entry.axis, start, mapped.size(entry.axis)), mapped);
    release_pages(mapped);
    start += mapped.size(entry.axis);
  }
  return joined.view(entry.shape);
}

}  // namespace

at::Tensor read_tensor(const TensorEntry& entry, at::ScalarType dtype) {
  at::Tensor tensor;
  if (entry.joined) {
    // Converted on the way where the converter can, so that there is no second copy.
    const bool direct = dtype == at::kFloat || dtype == at::kHalf;
    tensor = join(entry, direct ? dtype : entry.dtype).to(dtype);
  } else {
    const at::Tensor mapped = map_tensor(entry);
    tensor = mapped.to(dtype).contiguous();
    if (!tensor.is_same(mapped)) release_pages(mapped);
  }
  return entry.scale == 1.0 ? tensor : at::mul(tensor, entry.scale);
}

}  // namespace neox
