// Linear layers over weights that were packed once: y[M, N] = x[M, K] W^T (+ bias) (+ GELU) (+ residual).
//
// The weights lie in panels of up to kPanel outputs: for every step of the inner dimension, the panel's outputs side by side, so that a
// product streams through them once and in order. bfloat16 goes two inner steps at a time, as pairs. The same code serves one row
// (where reading the weights is all the time there is) and hundreds (where a tile of sums stays in registers).
//
// Every output is one chain of additions over the inner dimension in order, whatever the number of rows: a row's result does not depend
// on the rows beside it, nor on how the work is shared among threads.
#include "core/kernels/functions.h"
#include "core/kernels/math.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace neox::kernels::NEOX_KERNEL_NAMESPACE {
namespace {

constexpr int64_t kLanes = 16;               // outputs are padded to a multiple of it
constexpr int kVectors = 64 / kWidth;        // vectors in a full panel
constexpr int kRows = kWidth == 16 ? 6 : 2;  // rows of a tile: kRows * kVectors sums in registers

static_assert(kLinearPanel == 64);

// ---- how one step of the inner dimension multiplies ----

struct Step32 {
  typedef float Weight;
  typedef Float32 E;
  static constexpr int kInner = 1;
  typedef float Input;
  static inline FloatV input(const Input* x) { return splat(*x); }
  static inline FloatV weight(const Weight* w) { return load(w); }
  static inline FloatV multiply(FloatV sum, FloatV x, FloatV w) { return sum + x * w; }
};

struct PairV {
  FloatV first, second;
};

struct Step16 {
  typedef uint16_t Weight;
  typedef BFloat16 E;
  static constexpr int kInner = 2;
  typedef uint16_t Input;
#if defined(__AVX512BF16__)
  static inline __m512bh input(const Input* x) {
    int32_t pair;
    __builtin_memcpy(&pair, x, sizeof(pair));
    return (__m512bh)_mm512_set1_epi32(pair);
  }
  static inline __m512bh weight(const Weight* w) { return (__m512bh)_mm512_loadu_si512(w); }
  static inline FloatV multiply(FloatV sum, __m512bh x, __m512bh w) {
    return (FloatV)_mm512_dpbf16_ps((__m512)sum, x, w);
  }
#else
  static inline PairV split(UIntV pairs) { return {(FloatV)(pairs << 16), (FloatV)(pairs & 0xFFFF0000U)}; }
  static inline PairV input(const Input* x) {
    uint32_t pair;
    __builtin_memcpy(&pair, x, sizeof(pair));
    return split(pair - UIntV{});
  }
  static inline PairV weight(const Weight* w) {
    UIntV pairs;
    __builtin_memcpy(&pairs, w, sizeof(pairs));
    return split(pairs);
  }
  static inline FloatV multiply(FloatV sum, const PairV& x, const PairV& w) {
    return sum + x.first * w.first + x.second * w.second;
  }
#endif
};

// ---- what follows the product, on a tile that is still in registers ----

template <typename E>
inline FloatV load_part(const typename E::Type* p, int64_t valid) {
  if (valid >= kWidth) return E::load(p);
  typename E::Type part[kWidth] = {};
  for (int64_t i = 0; i < valid; ++i) part[i] = p[i];
  return E::load(part);
}

template <typename E>
inline void store_part(typename E::Type* p, FloatV v, int64_t valid) {
  if (valid >= kWidth) return E::store(p, v);
  typename E::Type part[kWidth];
  E::store(part, v);
  for (int64_t i = 0; i < valid; ++i) p[i] = part[i];
}

template <typename E>
inline void finish(const LinearTask& t, int64_t row, int64_t column, FloatV sum) {
  const int64_t valid = t.n - column;
  if (valid <= 0) return;
  if (t.bias != nullptr) sum += load_part<E>(static_cast<const typename E::Type*>(t.bias) + column, valid);
  if (t.after == After::kGelu) sum = gelu_of(sum);
  if (t.after == After::kGeluTanh) sum = gelu_tanh_of(sum);
  if (t.residual != nullptr)
    sum += load_part<E>(static_cast<const typename E::Type*>(t.residual) + row * t.n + column, valid);
  store_part<E>(static_cast<typename E::Type*>(t.out) + row * t.n + column, sum, valid);
}

template <typename S, int ROWS, int VECTORS>
void tile(const LinearTask& t, const typename S::Weight* panel, int64_t row, int64_t column) {
  const auto* x = static_cast<const typename S::Input*>(t.x) + row * t.x_stride;
  FloatV sum[ROWS][VECTORS] = {};
  const int64_t steps = (t.k + S::kInner - 1) / S::kInner;
  for (int64_t p = 0; p < steps; ++p) {
    decltype(S::weight(panel)) w[VECTORS];
    for (int j = 0; j < VECTORS; ++j) w[j] = S::weight(panel + (p * VECTORS + j) * kWidth * S::kInner);
    for (int i = 0; i < ROWS; ++i) {
      const auto in = S::input(x + i * t.x_stride + p * S::kInner);
      for (int j = 0; j < VECTORS; ++j) sum[i][j] = S::multiply(sum[i][j], in, w[j]);
    }
  }
  for (int i = 0; i < ROWS; ++i) {
    for (int j = 0; j < VECTORS; ++j) finish<typename S::E>(t, row + i, column + j * kWidth, sum[i][j]);
  }
}

template <typename S, int VECTORS>
void panel_rows(const LinearTask& t, const typename S::Weight* panel, int64_t column) {
  int64_t row = 0;
  for (; row + kRows <= t.m; row += kRows) tile<S, kRows, VECTORS>(t, panel, row, column);
  if constexpr (kRows > 2) {
    switch (t.m - row) {
      case 5: return tile<S, 5, VECTORS>(t, panel, row, column);
      case 4: return tile<S, 4, VECTORS>(t, panel, row, column);
      case 3: return tile<S, 3, VECTORS>(t, panel, row, column);
      case 2: return tile<S, 2, VECTORS>(t, panel, row, column);
      case 1: return tile<S, 1, VECTORS>(t, panel, row, column);
      default: return;
    }
  } else if (row < t.m) {
    tile<S, 1, VECTORS>(t, panel, row, column);
  }
}

// Outputs of panel p: kLinearPanel, or what is left, padded to kLanes.
inline int64_t panel_width(int64_t n, int64_t panel) {
  const int64_t left = round_up(n, kLanes) - panel * kLinearPanel;
  return left < kLinearPanel ? left : kLinearPanel;
}

template <typename S>
void run(const LinearTask& t, int64_t first, int64_t last) {
  const int64_t inner = round_up(t.k, S::kInner);
  for (int64_t p = first; p < last; ++p) {
    const auto* panel = static_cast<const typename S::Weight*>(t.weights) + p * kLinearPanel * inner;
    const int64_t column = p * kLinearPanel;
    if (panel_width(t.n, p) == kLinearPanel) {
      panel_rows<S, kVectors>(t, panel, column);
      continue;
    }
    // The last panel is narrower: its vectors are 16 outputs at a time, whatever kWidth is.
    switch (panel_width(t.n, p) / kLanes) {
      case 1: panel_rows<S, kLanes / kWidth>(t, panel, column); break;
      case 2: panel_rows<S, 2 * kLanes / kWidth>(t, panel, column); break;
      case 3: panel_rows<S, 3 * kLanes / kWidth>(t, panel, column); break;
      default: break;
    }
  }
}

template <typename S>
void pack(const LinearPackTask& t, int64_t first, int64_t last) {
  const auto* from = static_cast<const typename S::Weight*>(t.weights);
  const int64_t inner = round_up(t.k, S::kInner);
  for (int64_t p = first; p < last; ++p) {
    auto* to = static_cast<typename S::Weight*>(t.out) + p * kLinearPanel * inner;
    const int64_t width = panel_width(t.n, p);
    for (int64_t k = 0; k < inner; k += S::kInner) {
      for (int64_t j = 0; j < width; ++j) {
        const int64_t n = p * kLinearPanel + j;
        for (int64_t i = 0; i < S::kInner; ++i) {
          *to++ = n < t.n && k + i < t.k ? from[n * t.n_stride + (k + i) * t.k_stride] : typename S::Weight{};
        }
      }
    }
  }
}

}  // namespace

void linear(const LinearTask& task, int64_t first_panel, int64_t last_panel) {
  if (task.element == Element::kFloat32) {
    run<Step32>(task, first_panel, last_panel);
  } else {
    run<Step16>(task, first_panel, last_panel);
  }
}

void pack_linear(const LinearPackTask& task, int64_t first_panel, int64_t last_panel) {
  if (task.element == Element::kFloat32) {
    pack<Step32>(task, first_panel, last_panel);
  } else {
    pack<Step16>(task, first_panel, last_panel);
  }
}

}  // namespace neox::kernels::NEOX_KERNEL_NAMESPACE
