// Linear layers over weights that were packed once: y[M, N] = x[M, K] W^T (+ bias) (+ GELU) (+ residual).
//
// The weights lie in panels of kLinearPanel outputs: for every step of the inner dimension, the panel's outputs side by
// side, so that a product streams through them once and in order. bfloat16 goes two inner steps at a time, as pairs.
// The same code serves one row (where reading the weights is all the time there is) and hundreds (where a tile of sums
// stays in registers).
//
// A panel is as wide as a tile, and a tile has as many sums as registers hold. With 16 registers (AVX2) panels of 64
// outputs reached 48 GFLOP/s on a core of a Zen 3 in float32 with tiles of 2 rows and 51 to 73 with tiles of 6 rows of
// 16 outputs; panels of 16 outputs reach 86, with weights asked for ahead (kPrefetch).
//
// Without instructions for bfloat16 its products have their rows as float32 and widen the weights: 95 GFLOP/s where
// widening both reached 52.
//
// Every output is one chain of additions over the inner dimension in order, whatever the number of rows: a row's result
// does not depend on the rows beside it, nor on how the work is shared among threads.
//
// Rows are int16 where the weights are int8 (QuantizeTask): a product of two pairs is one instruction for 16
// multiplications with AVX2, where float32 takes two, and an exact one. The weights are widened to int16 on their way
// into registers, which costs next to nothing with a tile of rows to multiply. A chunk's sum becomes a float then,
// times the scale of the row's chunk; the scale of the output multiplies what the chunks add up to.
#include "core/kernels/functions.h"
#include "core/kernels/math.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace neox::kernels::NEOX_KERNEL_NAMESPACE {
namespace {

constexpr int kVectors = kLinearPanel / kWidth;  // vectors in a full panel

// ---- how one step of the inner dimension multiplies, in kParts parts ----

struct Step32 {
  typedef float Weight;
  typedef float Input;
  typedef FloatV Sum;
  static constexpr int kInner = 1;
  static constexpr int kParts = 1;
  template <int PART>
  static inline FloatV input(const Input* x) {
    return splat(*x);
  }
  template <int PART>
  static inline FloatV weight(const Weight* w) {
    return load(w);
  }
  template <int N>
  static inline void add_products(FloatV (&sums)[N], FloatV x, const FloatV (&w)[N]) {
    for (int j = 0; j < N; ++j) sums[j] = add_product(sums[j], x, w[j]);
  }
};

struct Step16 {
  typedef uint16_t Weight;
  typedef FloatV Sum;
  static constexpr int kInner = 2;
#if defined(__AVX512BF16__)
  typedef uint16_t Input;
  static constexpr int kParts = 1;
  template <int PART>
  static inline __m512bh input(const Input* x) {
    int32_t pair;
    __builtin_memcpy(&pair, x, sizeof(pair));
    return (__m512bh)_mm512_set1_epi32(pair);
  }
  template <int PART>
  static inline __m512bh weight(const Weight* w) {
    return (__m512bh)_mm512_loadu_si512(w);
  }
  template <int N>
  static inline void add_products(FloatV (&sums)[N], __m512bh x, const __m512bh (&w)[N]) {
    for (int j = 0; j < N; ++j) sums[j] = (FloatV)_mm512_dpbf16_ps((__m512)sums[j], x, w[j]);
  }
#else
  typedef float Input;
  static constexpr int kParts = 2;  // the first of each pair, then the second
  template <int PART>
  static inline FloatV input(const Input* x) {
    return splat(x[PART]);
  }
  template <int PART>
  static inline FloatV weight(const Weight* w) {
    UIntV pairs;
    __builtin_memcpy(&pairs, w, sizeof(pairs));
    return of_pairs<PART>(pairs);
  }
  template <int N>
  static inline void add_products(FloatV (&sums)[N], FloatV x, const FloatV (&w)[N]) {
    Step32::add_products(sums, x, w);
  }
#endif
};

struct Step8 {
  typedef int8_t Weight;
  typedef int16_t Input;
  typedef IntV Sum;
  static constexpr int kInner = 2;
  static constexpr int kParts = 1;
  template <int PART>
  static inline IntV input(const Input* x) {
    int32_t pair;
    __builtin_memcpy(&pair, x, sizeof(pair));
    return pair - IntV{};
  }
  template <int PART>
  static inline IntV weight(const Weight* w) {
    return load_pairs(w);
  }
  template <int N>
  static inline void add_products(IntV (&sums)[N], IntV x, const IntV (&w)[N]) {
    add_pair_products(sums, x, w);
  }
};

// ---- what follows the product ----

template <typename E, After AFTER>
void finish_rows(const LinearTask& t, int64_t row, int64_t column, const FloatV* sums, int64_t rows, int64_t vectors) {
  typedef typename E::Type T;
  for (int64_t j = 0; j < vectors; ++j, column += kWidth) {
    const int64_t valid = t.n - column;
    if (valid <= 0) return;
    const FloatV scale = t.scales == nullptr ? splat(1.0F) : load_part<Float32>(t.scales + column, valid);
    const FloatV bias = t.bias == nullptr ? FloatV{} : load_part<E>(static_cast<const T*>(t.bias) + column, valid);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t at = (row + r) * t.n + column;
      FloatV y = sums[r * vectors + j] * scale + bias;
      if constexpr (AFTER == After::kGelu) y = gelu_of(y);
      if constexpr (AFTER == After::kGeluTanh) y = gelu_tanh_of(y);
      if (t.residual != nullptr) y += load_part<E>(static_cast<const T*>(t.residual) + at, valid);
      store_part<E>(static_cast<T*>(t.out) + at, y, valid);
    }
  }
}

// Of the tile [rows, vectors] at that row and column. A function of its own for all tiles: what is decided for each of
// them is not decided for each vector again, and the code is there once.
template <typename E>
__attribute__((noinline)) void finish(const LinearTask& t, int64_t row, int64_t column, const FloatV* sums,
                                      int64_t rows, int64_t vectors) {
  switch (t.after) {
    case After::kNothing: return finish_rows<E, After::kNothing>(t, row, column, sums, rows, vectors);
    case After::kGelu: return finish_rows<E, After::kGelu>(t, row, column, sums, rows, vectors);
    case After::kGeluTanh: return finish_rows<E, After::kGeluTanh>(t, row, column, sums, rows, vectors);
  }
}

template <typename S, int PART, int ROWS, int VECTORS>
inline void add_part(typename S::Sum (&sum)[ROWS][VECTORS], const typename S::Input* x, int64_t x_stride,
                     const typename S::Weight* weights) {
  decltype(S::template weight<PART>(weights)) w[VECTORS];
  for (int j = 0; j < VECTORS; ++j) w[j] = S::template weight<PART>(weights + j * kWidth * S::kInner);
  for (int i = 0; i < ROWS; ++i) S::add_products(sum[i], S::template input<PART>(x + i * x_stride), w);
}

// Steps of the whole inner dimension.
template <typename S>
inline int64_t steps_of(const LinearTask& t) {
  return (t.k + S::kInner - 1) / S::kInner;
}

// Bytes that weights are asked for ahead. With few rows a tile is done with its weights sooner than the processor
// brings the next by itself: with 8 rows 47 GFLOP/s in place of 37 in float32, and 80 in place of 60 in bfloat16, with
// 512 rows 86 and 95 in place of 74 and 88 (a core of a Zen 3).
constexpr int64_t kPrefetch = 1536;

// What a tile asks for of the next panel, a part of it, a little in each step. With two tiles and more to a panel only
// the first would wait for memory, and memory for the others: with 8 rows 58 GFLOP/s in place of 47 in float32, 83 in
// place of 76 in bfloat16.
struct Ahead {
  const char* next;
  int64_t step;  // bytes
};
struct Nothing {};
// Tiles to a panel: with more there is little to gain, and asking costs 1 to 2 percent.
constexpr int64_t kMostAhead = 10;

// Products of some rows with some panels that follow each other, over `steps` of the inner dimension. A is Ahead or
// Nothing.
template <typename S, int ROWS, int PANELS, int VECTORS, typename A>
__attribute__((always_inline)) inline void add_steps(typename S::Sum (&sum)[PANELS][ROWS][VECTORS],
                                                     const typename S::Input* x, int64_t x_stride,
                                                     const typename S::Weight* weights, int64_t panel_size,
                                                     int64_t steps, A& ahead) {
  constexpr int64_t step = VECTORS * kWidth * S::kInner;
  constexpr int64_t bytes = step * static_cast<int64_t>(sizeof(typename S::Weight));
  for (int64_t p = 0; p < steps; ++p) {
    for (int i = 0; i < PANELS; ++i) {
      const typename S::Weight* w = weights + i * panel_size + p * step;
      for (int64_t b = 0; b < bytes; b += 64) __builtin_prefetch(reinterpret_cast<const char*>(w) + kPrefetch + b);
      add_part<S, 0>(sum[i], x, x_stride, w);
      if constexpr (S::kParts == 2) add_part<S, 1>(sum[i], x, x_stride, w);
    }
    if constexpr (__is_same(A, Ahead)) {
      // Half of a step's weights: as much as any of two tiles or more has to ask for.
      for (int64_t b = 0; b < bytes; b += 128) __builtin_prefetch(ahead.next + b, 0, 2);
      ahead.next += ahead.step;
    }
    x += S::kInner;
  }
}

// Over the whole inner dimension. This and add_chunk are functions of their own, so that sums are in registers: GCC 12
// keeps them on the stack from the beginning where their address is taken in the end (bfloat16, 512 rows: 73 % of the
// speed), or where they begin anew in a loop.
template <typename S, int ROWS, int PANELS, int VECTORS, typename A>
__attribute__((noinline)) void add_all(FloatV (&sum)[PANELS][ROWS][VECTORS], const typename S::Input* x,
                                       int64_t x_stride, const typename S::Weight* weights, int64_t panel_size,
                                       int64_t steps, A& ahead) {
  FloatV own[PANELS][ROWS][VECTORS] = {};
  add_steps<S>(own, x, x_stride, weights, panel_size, steps, ahead);
#pragma GCC unroll 8
  for (int i = 0; i < PANELS; ++i) {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      for (int j = 0; j < VECTORS; ++j) sum[i][r][j] = own[i][r][j];
    }
  }
}

// Over a chunk of rows of int16, times its scales; the first chunk begins the sums.
template <int ROWS, int PANELS, int VECTORS, typename A>
__attribute__((noinline)) void add_chunk(FloatV (&sum)[PANELS][ROWS][VECTORS], const int16_t* x, int64_t x_stride,
                                         const int8_t* weights, int64_t panel_size, int64_t steps, const float* scales,
                                         int64_t scales_stride, bool first, A& ahead) {
  IntV part[PANELS][ROWS][VECTORS] = {};
  add_steps<Step8>(part, x, x_stride, weights, panel_size, steps, ahead);
#pragma GCC unroll 8
  for (int i = 0; i < PANELS; ++i) {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const FloatV scale = splat(scales[r * scales_stride]);
      for (int j = 0; j < VECTORS; ++j)
        sum[i][r][j] =
            add_product(first ? FloatV{} : sum[i][r][j], scale, __builtin_convertvector(part[i][r][j], FloatV));
    }
  }
}

// Over the whole inner dimension, and what follows.
template <typename S, typename E, int ROWS, int PANELS, int VECTORS, typename A>
void tile(const LinearTask& t, const typename S::Weight* weights, int64_t row, int64_t column, A ahead) {
  constexpr int64_t step = VECTORS * kWidth * S::kInner;
  const int64_t steps = steps_of<S>(t);
  const typename S::Input* x = static_cast<const typename S::Input*>(t.x) + row * t.x_stride;
  // What is written is there when the sums are: 448 rows of 3072 outputs in int8 are 148 GFLOP/s in place of 143.
  const auto* out = static_cast<const typename E::Type*>(t.out) + row * t.n + column;
  for (int r = 0; r < ROWS; ++r) __builtin_prefetch(out + r * t.n, 1);
  FloatV sum[PANELS][ROWS][VECTORS];
  if constexpr (__is_same(S, Step8)) {
    constexpr int64_t most = kQuantizedChunk / S::kInner;
    const int64_t chunks = quantized_chunks(t.k);
    for (int64_t c = 0; c < chunks; ++c) {
      const int64_t left = steps - c * most;
      add_chunk(sum, x + c * kQuantizedChunk, t.x_stride, weights + c * most * step, steps * step,
                left < most ? left : most, t.x_scales + row * chunks + c, chunks, c == 0, ahead);
    }
  } else {
    add_all<S>(sum, x, t.x_stride, weights, steps * step, steps, ahead);
  }
  for (int i = 0; i < PANELS; ++i) finish<E>(t, row, column + i * kLinearPanel, &sum[i][0][0], ROWS, VECTORS);
}

template <int N>
struct Constant {
  static constexpr int value = N;
};

// Calls f with the vectors of a panel of that width as a constant.
template <int VECTORS = kVectors, typename F>
inline void with_vectors(int64_t width, const F& f) {
  if (width == VECTORS * kWidth) return f(Constant<VECTORS>());
  if constexpr (VECTORS * kWidth > kLanes) with_vectors<VECTORS - kLanes / kWidth>(width, f);
}

// Rows of a tile: as many sums as registers hold beside what is multiplied.
constexpr int kRows = kWidth >= 8 ? 6 : 2;
// Bytes of the rows that all panels are multiplied with before the next rows: they stay in the second-level cache.
constexpr int64_t kBlockBytes = 192 * 1024;

template <typename S, typename E, int ROWS, int VECTORS, typename A>
inline void tile_of(const LinearTask& t, const typename S::Weight* panel, int64_t rows, int64_t row, int64_t column,
                    A ahead) {
  if (rows == ROWS) return tile<S, E, ROWS, 1, VECTORS>(t, panel, row, column, ahead);
  if constexpr (ROWS > 1) tile_of<S, E, ROWS - 1, VECTORS>(t, panel, rows, row, column, ahead);
}

// Rows [first, last) in tiles of nearly the same height: a low one leaves the multipliers waiting for its few sums.
template <typename S, typename E, int VECTORS>
void panel_rows(const LinearTask& t, const typename S::Weight* panel, int64_t first, int64_t last, int64_t column) {
  const int64_t steps = steps_of<S>(t);
  constexpr int64_t step = VECTORS * kWidth * S::kInner * static_cast<int64_t>(sizeof(typename S::Weight));
  const int64_t all = (last - first + kRows - 1) / kRows;
  int64_t row = first;
  for (int64_t i = 0; i < all; ++i) {
    const int64_t rows = (last - row + all - i - 1) / (all - i);
    if (all > 1 && all <= kMostAhead) {
      const char* const next = reinterpret_cast<const char*>(panel) + steps * step;
      tile_of<S, E, kRows, VECTORS>(t, panel, rows, row, column, Ahead{next + i * steps * step / all, step / all});
    } else {
      tile_of<S, E, kRows, VECTORS>(t, panel, rows, row, column, Nothing());
    }
    row += rows;
  }
}

template <typename S, typename E>
void run_rows(const LinearTask& t, const typename S::Weight* panels, int64_t first, int64_t last) {
  const int64_t inner = round_up(t.k, S::kInner);
  const int64_t fitting = kBlockBytes / (inner * static_cast<int64_t>(sizeof(typename S::Input)));
  constexpr int64_t least = 4 * kRows;  // fewer would read the weights too often
  const int64_t block = fitting < least ? least : fitting / least * least;
  for (int64_t row = 0; row < t.m; row += block) {
    const int64_t end = row + block < t.m ? row + block : t.m;
    for (int64_t p = first; p < last; ++p) {
      const auto* panel = panels + (p - t.weights_panel) * kLinearPanel * inner;
      with_vectors(panel_width(t.n, p), [&](auto vectors) {
        panel_rows<S, E, decltype(vectors)::value>(t, panel, row, end, p * kLinearPanel);
      });
    }
  }
}

// All of a few rows. They have few sums with a narrow panel, and multipliers that wait for them: so with several panels
// at a time.
template <typename S, typename E, int ROWS>
void run_few(const LinearTask& t, const typename S::Weight* panels, int64_t first, int64_t last) {
  constexpr int PANELS = kLinearPanel == 64 ? 1 : ROWS == 1 ? 4 : 2;
  const int64_t inner = round_up(t.k, S::kInner);
  int64_t p = first;
  const auto panel = [&] { return panels + (p - t.weights_panel) * kLinearPanel * inner; };
  for (; p + PANELS <= last && (p + PANELS) * kLinearPanel <= round_up(t.n, kLanes); p += PANELS)
    tile<S, E, ROWS, PANELS, kVectors>(t, panel(), 0, p * kLinearPanel, Nothing());
  for (; p < last; ++p) {
    with_vectors(panel_width(t.n, p), [&](auto vectors) {
      tile<S, E, ROWS, 1, decltype(vectors)::value>(t, panel(), 0, p * kLinearPanel, Nothing());
    });
  }
}

template <typename S, typename E>
void run(const LinearTask& t, int64_t first, int64_t last) {
  const auto* panels = static_cast<const typename S::Weight*>(t.weights);
  switch (t.m) {
    case 1: return run_few<S, E, 1>(t, panels, first, last);
    case 2: return run_few<S, E, 2>(t, panels, first, last);
    case 3: return run_few<S, E, 3>(t, panels, first, last);
    default: return run_rows<S, E>(t, panels, first, last);
  }
}

template <typename S>
void pack(const LinearPackTask& t, int64_t first, int64_t last) {
  typedef typename S::Weight W;
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
  switch (task.weight_element) {
    case WeightElement::kFloat32: return run<Step32, Float32>(task, first_panel, last_panel);
    case WeightElement::kBFloat16: return run<Step16, BFloat16>(task, first_panel, last_panel);
    case WeightElement::kInt8:
      return single ? run<Step8, Float32>(task, first_panel, last_panel)
                    : run<Step8, BFloat16>(task, first_panel, last_panel);
  }
}

void pack_linear(const LinearPackTask& task, int64_t first_panel, int64_t last_panel) {
  switch (task.element) {
    case WeightElement::kFloat32: return pack<Step32>(task, first_panel, last_panel);
    case WeightElement::kBFloat16: return pack<Step16>(task, first_panel, last_panel);
    case WeightElement::kInt8: return pack<Step8>(task, first_panel, last_panel);
  }
}

}  // namespace neox::kernels::NEOX_KERNEL_NAMESPACE
