#include "core/model/transposed_weights.h"

#include <algorithm>

namespace neox {
namespace {

using kernels::WeightElement;

constexpr int64_t kLanes = 16;  // a panel's outputs are padded to a multiple of it

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Outputs of panel p of n, padding included.
int64_t panel_width(int64_t panel, int64_t n, int64_t p) { return std::min(panel, round_up(n, kLanes) - p * panel); }

// `INNER` elements of the inner dimension lie side by side.
template <typename T, int INNER>
void transpose(const PackedView& w, int64_t first, int64_t last, T* to) {
  const auto* from = static_cast<const T*>(w.data);
  const int64_t inner = round_up(w.in, INNER);  // of a panel of W
  for (int64_t q = first; q < last; ++q) {
    const int64_t column = q * w.panel;
    const int64_t width = panel_width(w.panel, w.in, q);
    const int64_t columns = std::min(width, inner - column);
    for (int64_t p = 0; p < kernels::linear_panels(w.out, w.panel); ++p) {
      // A block of a panel's width in both directions, contiguous in both.
      const int64_t height = panel_width(w.panel, w.out, p);
      const T* const block = from + p * w.panel * inner + column * height;
      const int64_t rows = std::min(height, round_up(w.out, INNER) - p * w.panel);
      for (int64_t n = 0; n < rows; n += INNER) {
        if constexpr (INNER == 1) {
          for (int64_t c = 0; c < columns; ++c) to[c] = block[c * height + n];
        } else {
          for (int64_t c = 0; c < columns; c += 2) {
            const T* const pair = block + c * height + 2 * n;
            to[2 * c] = pair[0];
            to[2 * c + 1] = pair[2];
            to[2 * c + 2] = pair[1];
            to[2 * c + 3] = pair[3];
          }
        }
        std::fill(to + columns * INNER, to + width * INNER, T{});
        to += width * INNER;
      }
    }
  }
}

}  // namespace

void transpose_panels(const PackedView& weights, int64_t first, int64_t last, void* to) {
  switch (weights.element) {
    case WeightElement::kFloat32: return transpose<float, 1>(weights, first, last, static_cast<float*>(to));
    case WeightElement::kBFloat16: return transpose<uint16_t, 2>(weights, first, last, static_cast<uint16_t*>(to));
    case WeightElement::kInt8: return transpose<int8_t, 2>(weights, first, last, static_cast<int8_t*>(to));
  }
}

int64_t element_bytes(WeightElement element) {
  switch (element) {
    case WeightElement::kFloat32: return 4;
    case WeightElement::kBFloat16: return 2;
    case WeightElement::kInt8: break;
  }
  return 1;
}

int64_t transposed_panel_bytes(const PackedView& weights) {
  return kernels::linear_packed_size(weights.element, weights.panel, weights.out) * element_bytes(weights.element);
}

}  // namespace neox
