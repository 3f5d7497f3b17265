// Panels of W^T out of the packed form of W, for gradients without a second copy of the weights: laid out each when its
// turn comes, in a buffer that stays in the cache. They are what packing W^T gives, so products with them are the same
// to the last bit.
//
// Squares are transposed in registers: element by element a training step took 7 % longer for it (AVX2, 512 tokens of
// rinna-small's shape), and takes 3 % longer this way.
#include "core/kernels/functions.h"
#include "core/kernels/vector.h"

namespace neox::kernels::NEOX_KERNEL_NAMESPACE {
namespace {

constexpr int64_t kAhead = 3;  // blocks

// A block of W is as high and as wide as panels are: `columns` inputs of `height` outputs, contiguous, and `width`
// inputs with padding. `to` has `rows` outputs of `width` inputs. Outputs and inputs lie in steps of S::kInner, as in
// linear.kernel.cc.
struct Block {
  int64_t columns, height, width, rows;
};

struct Single {
  typedef float Type;
  static constexpr int kInner = 1;

  // Of all columns: the rows that make full squares. Returns how many.
  static int64_t squares(const Block& b, const float* from, float* to) {
    const int64_t rows = b.columns % kWidth == 0 ? b.rows / kWidth * kWidth : 0;
    for (int64_t n = 0; n < rows; n += kWidth) {
      for (int64_t c = 0; c < b.columns; c += kWidth) {
        FloatV square[kWidth];
        for (int i = 0; i < kWidth; ++i) square[i] = load(from + (c + i) * b.height + n);
        transpose_tile(square);
        for (int i = 0; i < kWidth; ++i) store(to + (n + i) * b.width + c, square[i]);
      }
    }
    return rows;
  }

  static void row(const Block& b, const float* from, int64_t n, float* to) {
    for (int64_t c = 0; c < b.columns; ++c) to[n * b.width + c] = from[c * b.height + n];
  }
};

// Pairs of inputs become pairs of outputs. In registers a pair takes 32 bits, each part HALF of them.
template <typename T, int HALF>
struct Pairs {
  typedef T Type;
  static constexpr int kInner = 2;

  static UIntV load_pairs(const T* p) {
    if constexpr (sizeof(T) == 2) {
      UIntV v;
      __builtin_memcpy(&v, p, sizeof(v));
      return v;
    } else {
      ShortV v;
      __builtin_memcpy(&v, p, sizeof(v));
      return __builtin_convertvector(v, UIntV);
    }
  }
  static void store_pairs(T* p, UIntV v) {
    if constexpr (sizeof(T) == 2) {
      __builtin_memcpy(p, &v, sizeof(v));
    } else {
      const ShortV narrow = __builtin_convertvector(v, ShortV);
      __builtin_memcpy(p, &narrow, sizeof(narrow));
    }
  }
  template <int FIRST, int... J>
  static UIntV alternate(UIntV even, UIntV odd, Lanes<J...> /*all*/) {
    return (UIntV)shuffle((FloatV)even, (FloatV)odd, Lanes<(FIRST + J / 2 + J % 2 * kWidth)...>());
  }

  static int64_t squares(const Block& b, const T* from, T* to) {
    constexpr MakeLanes<kWidth>::Type all;
    constexpr uint32_t low = (1U << HALF) - 1;
    const int64_t rows = b.columns % (2 * kWidth) == 0 ? b.rows / kWidth * kWidth : 0;
    for (int64_t n = 0; n < rows; n += kWidth) {
      for (int64_t c = 0; c < b.columns; c += 2 * kWidth) {
        FloatV square[kWidth];
        for (int i = 0; i < kWidth; ++i) square[i] = (FloatV)load_pairs(from + (c + 2 * i) * b.height + 2 * n);
        transpose_tile(square);
        for (int i = 0; i < kWidth; i += 2) {
          const UIntV first = (UIntV)square[i];
          const UIntV second = (UIntV)square[i + 1];
          const UIntV even = (first & low) | (second & low) << HALF;
          const UIntV odd = first >> HALF | (second & ~low);
          T* const line = to + (n + i) * b.width + 2 * c;
          store_pairs(line, alternate<0>(even, odd, all));
          store_pairs(line + 2 * kWidth, alternate<kWidth / 2>(even, odd, all));
        }
      }
    }
    return rows;
  }

  static void row(const Block& b, const T* from, int64_t n, T* to) {
    for (int64_t c = 0; c < b.columns; c += 2) {
      const T* const pair = from + c * b.height + 2 * n;
      T* const line = to + n * b.width + 2 * c;
      line[0] = pair[0];
      line[1] = pair[2];
      line[2] = pair[1];
      line[3] = pair[3];
    }
  }
};

template <typename S>
void transpose(const TransposeTask& t, int64_t first, int64_t last) {
  typedef typename S::Type T;
  const auto* from = static_cast<const T*>(t.weights);
  auto* to = static_cast<T*>(t.out);
  const int64_t inner = round_up(t.k, S::kInner);  // of a panel of W
  for (int64_t q = first; q < last; ++q) {
    const int64_t column = q * kLinearPanel;
    Block block;
    block.width = panel_width(t.k, q);
    block.columns = inner - column < block.width ? inner - column : block.width;
    for (int64_t done = 0; done < t.n; done += kLinearPanel) {
      block.height = panel_width(t.n, done / kLinearPanel);
      const int64_t left = round_up(t.n, S::kInner) - done;
      block.rows = left < block.height ? left : block.height;
      const T* const source = from + done * inner + column * block.height;
      // The blocks of a panel lie too far apart for the processor to see what comes next.
      const auto* const ahead = reinterpret_cast<const char*>(source + kAhead * kLinearPanel * inner);
      for (int64_t b = 0; b < block.height * block.columns * static_cast<int64_t>(sizeof(T)); b += 64)
        __builtin_prefetch(ahead + b);
      for (int64_t n = S::squares(block, source, to); n < block.rows; n += S::kInner) {
        S::row(block, source, n, to);
        T* const line = to + n * block.width;
        for (int64_t i = block.columns * S::kInner; i < block.width * S::kInner; ++i) line[i] = T{};
      }
      to += block.rows * block.width;
    }
  }
}

}  // namespace

void transpose_panels(const TransposeTask& task, int64_t first_panel, int64_t last_panel) {
  switch (task.element) {
    case WeightElement::kFloat32: return transpose<Single>(task, first_panel, last_panel);
    case WeightElement::kBFloat16: return transpose<Pairs<uint16_t, 16>>(task, first_panel, last_panel);
    case WeightElement::kInt8: return transpose<Pairs<int8_t, 8>>(task, first_panel, last_panel);
  }
}

}  // namespace neox::kernels::NEOX_KERNEL_NAMESPACE
