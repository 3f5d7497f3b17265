// Linear layers over weights that were packed once: y[M, N] = x[M, K] W^T (+ bias) (+ GELU) (+ residual).
//
// The weights lie in panels of up to kPanel outputs: for every step of the inner dimension, the panel's outputs side by side, so that a
// product streams through them once and in order. bfloat16 goes two inner steps at a time, as pairs. The same code serves one row
// (where reading the weights is all the time there is) and hundreds (where a tile of sums stays in registers).
//
// Every output is one chain of additions over the inner dimension in order, whatever the number of rows: a row's result does not depend
// on the rows beside it, nor on how the work is shared among threads.
//
// int8 weights lie in the same order and are widened on their way into registers, exactly, to a float or a bfloat16. With a tile of rows to multiply
// that costs next to nothing: a buffer of widened weights for many rows was a tenth slower (AVX2). The scale of an output multiplies its sum.
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
  static inline FloatV weight(const int8_t* w) { return load(w); }
  static inline FloatV multiply(FloatV sum, FloatV x, FloatV w) { return sum + x * w; }
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
  static inline __m512bh weight(const int8_t* w) { return (__m512bh)join_pairs(load_pairs(w)); }
  static inline FloatV multiply(FloatV sum, __m512bh x, __m512bh w) {
    return (FloatV)_mm512_dpbf16_ps((__m512)sum, x, w);
  }
#else
  static inline PairV input(const Input* x) {
    uint32_t pair;
    __builtin_memcpy(&pair, x, sizeof(pair));
    return split_pairs(pair - UIntV{});
  }
  static inline PairV weight(const Weight* w) {
    UIntV pairs;
    __builtin_memcpy(&pairs, w, sizeof(pairs));
    return split_pairs(pairs);
  }
  static inline PairV weight(const int8_t* w) { return load_pairs(w); }
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
  if (t.scales != nullptr) sum *= load_part<Float32>(t.scales + column, valid);
  if (t.bias != nullptr) sum += load_part<E>(static_cast<const typename E::Type*>(t.bias) + column, valid);
  if (t.after == After::kGelu) sum = gelu_of(sum);
  if (t.after == After::kGeluTanh) sum = gelu_tanh_of(sum);
  if (t.residual != nullptr)
    sum += load_part<E>(static_cast<const typename E::Type*>(t.residual) + row * t.n + column, valid);
  store_part<E>(static_cast<typename E::Type*>(t.out) + row * t.n + column, sum, valid);
}

// Adds the products of some inner steps to a tile of sums; the weights of two steps are `step` apart. W is S::Weight or int8_t.
template <typename S, typename W, int ROWS, int VECTORS>
inline void add_products(FloatV (&sum)[ROWS][VECTORS], const typename S::Input* x, int64_t x_stride, const W* weights,
                         int64_t step, int64_t steps) {
  for (int64_t p = 0; p < steps; ++p) {
    if constexpr (ROWS == 1) {  // each weight is used once: it needs no register to stay in
      const auto in = S::input(x + p * S::kInner);
      for (int j = 0; j < VECTORS; ++j)
        sum[0][j] = S::multiply(sum[0][j], in, S::weight(weights + p * step + j * kWidth * S::kInner));
      continue;
    }
    decltype(S::weight(weights)) w[VECTORS];
    for (int j = 0; j < VECTORS; ++j) w[j] = S::weight(weights + p * step + j * kWidth * S::kInner);
    for (int i = 0; i < ROWS; ++i) {
      const auto in = S::input(x + i * x_stride + p * S::kInner);
      for (int j = 0; j < VECTORS; ++j) sum[i][j] = S::multiply(sum[i][j], in, w[j]);
    }
  }
}

template <typename S>
inline const typename S::Input* input_row(const LinearTask& t, int64_t row) {
  return static_cast<const typename S::Input*>(t.x) + row * t.x_stride;
}

// Whole products of some rows with some columns of a panel.
template <typename S, typename W, int ROWS, int VECTORS>
void tile(const LinearTask& t, const W* weights, int64_t step, int64_t row, int64_t column) {
  FloatV sum[ROWS][VECTORS] = {};
  add_products<S, W>(sum, input_row<S>(t, row), t.x_stride, weights, step, (t.k + S::kInner - 1) / S::kInner);
  for (int i = 0; i < ROWS; ++i) {
    for (int j = 0; j < VECTORS; ++j) finish<typename S::E>(t, row + i, column + j * kWidth, sum[i][j]);
  }
}

template <typename S, int VECTORS>
void panel_rows(const LinearTask& t, const typename S::Weight* panel, int64_t column) {
  typedef typename S::Weight W;
  constexpr int64_t step = VECTORS * kWidth * S::kInner;
  int64_t row = 0;
  for (; row + kRows <= t.m; row += kRows) tile<S, W, kRows, VECTORS>(t, panel, step, row, column);
  if constexpr (kRows > 2) {
    switch (t.m - row) {
      case 5: return tile<S, W, 5, VECTORS>(t, panel, step, row, column);
      case 4: return tile<S, W, 4, VECTORS>(t, panel, step, row, column);
      case 3: return tile<S, W, 3, VECTORS>(t, panel, step, row, column);
      case 2: return tile<S, W, 2, VECTORS>(t, panel, step, row, column);
      case 1: return tile<S, W, 1, VECTORS>(t, panel, step, row, column);
      default: return;
    }
  } else if (row < t.m) {
    tile<S, W, 1, VECTORS>(t, panel, step, row, column);
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
    const auto* panel =
        static_cast<const typename S::Weight*>(t.weights) + (p - t.weights_panel) * kLinearPanel * inner;
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

// ---- int8 weights ----

// Columns of a panel that are worked on at a time, and rows: as many sums as registers hold beside what is multiplied.
constexpr int kPartVectors = kWidth == 16 ? 4 : kLanes / kWidth;
template <typename S>
constexpr int kPartRows = kWidth == 16  ? 6
                          : kWidth == 8 ? (S::kInner == 1 ? 6 : 4)
                                        : 2;
// Bytes of the rows that all panels are multiplied with before the next rows: they stay in the second-level cache.
constexpr int64_t kBlockBytes = 192 * 1024;

template <typename S, int ROWS, int VECTORS>
void part_rows(const LinearTask& t, const int8_t* weights, int64_t step, int64_t rows, int64_t row, int64_t column) {
  if (rows == ROWS) return tile<S, int8_t, ROWS, VECTORS>(t, weights, step, row, column);
  if constexpr (ROWS > 1) part_rows<S, ROWS - 1, VECTORS>(t, weights, step, rows, row, column);
}

// Rows [first, last) in tiles of nearly the same height: a low one leaves the multipliers waiting for its few sums.
template <typename S, int VECTORS>
void part(const LinearTask& t, const int8_t* weights, int64_t step, int64_t first, int64_t last, int64_t column) {
  constexpr int ROWS = kPartRows<S>;
  int64_t tiles = (last - first + ROWS - 1) / ROWS;
  for (int64_t row = first; row < last; --tiles) {
    const int64_t rows = (last - row + tiles - 1) / tiles;
    part_rows<S, ROWS, VECTORS>(t, weights, step, rows, row, column);
    row += rows;
  }
}

template <typename S>
void run_int8(const LinearTask& t, int64_t first, int64_t last) {
  const int64_t inner = round_up(t.k, S::kInner);
  const int64_t fitting = kBlockBytes / (inner * static_cast<int64_t>(sizeof(typename S::Input)));
  const int64_t least = 4 * kPartRows<S>;  // fewer would read the weights too often
  const int64_t block = fitting < least ? least : fitting / least * least;
  for (int64_t row = 0; row < t.m; row += block) {
    const int64_t end = row + block < t.m ? row + block : t.m;
    for (int64_t p = first; p < last; ++p) {
      const auto* panel = static_cast<const int8_t*>(t.weights) + (p - t.weights_panel) * kLinearPanel * inner;
      const int64_t column = p * kLinearPanel;
      const int64_t width = panel_width(t.n, p);
      const int64_t step = width * S::kInner;
      // One row alone leaves registers for a whole panel: its weights are read once and in order.
      if (t.m == 1 && width == kLinearPanel) {
        tile<S, int8_t, 1, kVectors>(t, panel, step, 0, column);
        continue;
      }
      int64_t at = 0;
      for (; at + kPartVectors * kWidth <= width; at += kPartVectors * kWidth)
        part<S, kPartVectors>(t, panel + at * S::kInner, step, row, end, column + at);
      for (; at < width; at += kLanes) part<S, kLanes / kWidth>(t, panel + at * S::kInner, step, row, end, column + at);
    }
  }
}

// W is S::Weight or int8_t.
template <typename S, typename W>
void pack(const LinearPackTask& t, int64_t first, int64_t last) {
  const auto* from = static_cast<const W*>(t.weights);
  const int64_t inner = round_up(t.k, S::kInner);
  for (int64_t p = first; p < last; ++p) {
    auto* to = static_cast<W*>(t.out) + p * kLinearPanel * inner;
    const int64_t width = panel_width(t.n, p);
    for (int64_t k = 0; k < inner; k += S::kInner) {
      for (int64_t j = 0; j < width; ++j) {
        const int64_t n = p * kLinearPanel + j;
        for (int64_t i = 0; i < S::kInner; ++i) {
          *to++ = n < t.n && k + i < t.k ? from[n * t.n_stride + (k + i) * t.k_stride] : W{};
        }
      }
    }
  }
}

}  // namespace

void linear(const LinearTask& task, int64_t first_panel, int64_t last_panel) {
  const bool single = task.element == Element::kFloat32;
  if (task.scales != nullptr) {
    return single ? run_int8<Step32>(task, first_panel, last_panel) : run_int8<Step16>(task, first_panel, last_panel);
  }
  return single ? run<Step32>(task, first_panel, last_panel) : run<Step16>(task, first_panel, last_panel);
}

void pack_linear(const LinearPackTask& task, int64_t first_panel, int64_t last_panel) {
  const bool single = task.element == Element::kFloat32;
  if (task.int8) {
    return single ? pack<Step32, int8_t>(task, first_panel, last_panel)
                  : pack<Step16, int8_t>(task, first_panel, last_panel);
  }
  return single ? pack<Step32, float>(task, first_panel, last_panel)
                : pack<Step16, uint16_t>(task, first_panel, last_panel);
}

float quantize(const float* weights, int64_t count, int8_t* out) {
  FloatV largest = {};
  IntV finite = largest == largest;
  const auto look = [&](FloatV v) {
    largest = max_of(largest, abs_of(v));
    finite &= v - v == FloatV{};  // neither NaN nor infinite
  };
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) look(load(weights + i));
  float rest[kWidth] = {};
  for (int64_t j = i; j < count; ++j) rest[j - i] = weights[j];
  look(load(rest));
  int all = -1;
  for (int j = 0; j < kWidth; ++j) all &= finite[j];
  const float range = largest_of(largest);
  const bool usable = all != 0 && range > 1e-30F;
  const float inverse = usable ? 127.0F / range : 0.0F;
  const float magic = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  for (i = 0; i < count; ++i) {
    const float rounded = weights[i] * inverse + magic - magic;
    out[i] = usable ? static_cast<int8_t>(static_cast<int32_t>(rounded)) : int8_t{0};
  }
  if (all == 0) return __builtin_nanf("");
  return usable ? range / 127.0F : 0.0F;
}

}  // namespace neox::kernels::NEOX_KERNEL_NAMESPACE
