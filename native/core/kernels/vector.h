// Vectors of float32 for *.kernel.cc, on the compiler's vector extensions: the same source becomes AVX-512, AVX2, SSE2
// or NEON code by the flags it is compiled with. Everything is static, see kernels.h.
#pragma once

#include <stddef.h>
#include <stdint.h>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace neox::kernels::NEOX_KERNEL_NAMESPACE {
namespace {

// kLinearPanel: outputs in a panel of packed weights, a multiple of 16 and as wide as a tile of the product.
#if defined(__AVX512F__)
constexpr int kWidth = 16;    // floats in a vector
constexpr int kTileRows = 6;  // a tile of the matrix product: rows x vectors of accumulators that fit the registers
constexpr int kTileVectors = 4;
constexpr int kLinearPanel = 64;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
constexpr int kTileRows = 6;
constexpr int kTileVectors = 2;
constexpr int kLinearPanel = 16;
#else
constexpr int kWidth = 4;
constexpr int kTileRows = 4;
constexpr int kTileVectors = 2;
constexpr int kLinearPanel = 16;
#endif

typedef float FloatV __attribute__((vector_size(kWidth * 4)));
typedef int32_t IntV __attribute__((vector_size(kWidth * 4)));
typedef uint32_t UIntV __attribute__((vector_size(kWidth * 4)));
typedef uint16_t ShortV __attribute__((vector_size(kWidth * 2)));
typedef int8_t BytePairV __attribute__((vector_size(kWidth * 2)));
typedef int16_t ShortPairV __attribute__((vector_size(kWidth * 4)));

// Whether products in bfloat16 have their rows as float32.
#if defined(__AVX512BF16__)
constexpr bool kWideRows = false;
#else
constexpr bool kWideRows = true;
#endif

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

constexpr int64_t kLanes = 16;  // outputs of packed weights are padded to a multiple of it

// Outputs of panel p: kLinearPanel, or what is left, padded to kLanes.
inline int64_t panel_width(int64_t n, int64_t panel) {
  const int64_t left = round_up(n, kLanes) - panel * kLinearPanel;
  return left < kLinearPanel ? left : kLinearPanel;
}

inline FloatV splat(float x) { return x - FloatV{}; }

inline FloatV load(const float* p) {
  FloatV v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
inline void store(float* p, FloatV v) { __builtin_memcpy(p, &v, sizeof(v)); }

// sum + x * w. With 16 registers by name: for `sum` as it is GCC 12 takes forms of the instruction that leave the
// result in the place of x, and then moves the sums of a tile about, to the stack too (64 GFLOP/s in place of 94).
inline FloatV add_product(FloatV sum, FloatV x, FloatV w) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  __asm__("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(x), "x"(w));
  return sum;
#else
  return sum + x * w;
#endif
}

inline FloatV max_of(FloatV a, FloatV b) { return a > b ? a : b; }

inline float sum_of(FloatV v) {
  float parts[kWidth];
  store(parts, v);
  // Pairwise, so that the order of the sum is the same whatever the compiler makes of it.
  for (int width = kWidth / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) parts[i] += parts[i + width];
  }
  return parts[0];
}

inline float largest_of(FloatV v) {
  float parts[kWidth];
  store(parts, v);
  float best = parts[0];
  for (int i = 1; i < kWidth; ++i) best = parts[i] > best ? parts[i] : best;
  return best;
}

// Lanes 0 .. N-1 as a parameter pack.
template <int... J>
struct Lanes {};
template <int N, int... J>
struct MakeLanes : MakeLanes<N - 1, N - 1, J...> {};
template <int... J>
struct MakeLanes<0, J...> {
  typedef Lanes<J...> Type;
};

template <int... J>
inline FloatV shuffle(FloatV a, FloatV b, Lanes<J...> /*of a, then of b*/) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, J...);
#else
  return __builtin_shuffle(a, b, IntV{J...});
#endif
}

// Interleaves, in each group of four lanes, the first two (PART 0) or the last two (PART 2) of a and b: one
// instruction.
template <int PART, int... J>
inline FloatV interleave(FloatV a, FloatV b, Lanes<J...> /*all*/) {
  return shuffle(a, b, Lanes<(J % 2 * kWidth + J / 4 * 4 + PART + J % 4 / 2)...>());
}

// Swaps, in squares of 2H by 2H of two rows that are H apart, the upper right quarter and the lower left one.
template <int H, int... J>
inline void swap_quarters(FloatV& a, FloatV& b, Lanes<J...> /*all*/) {
  const FloatV first = shuffle(a, b, Lanes<((J & H) != 0 ? kWidth + (J ^ H) : J)...>());
  b = shuffle(a, b, Lanes<((J & H) != 0 ? kWidth + J : J ^ H)...>());
  a = first;
}

template <int H>
inline void swap_all_quarters(FloatV* rows) {
  if constexpr (H < kWidth) {
    for (int i = 0; i < kWidth; ++i) {
      if ((i & H) == 0) swap_quarters<H>(rows[i], rows[i + H], MakeLanes<kWidth>::Type());
    }
    swap_all_quarters<2 * H>(rows);
  }
}

// Transposes a square of kWidth rows in registers: squares of four by four first, then larger ones.
inline void transpose_tile(FloatV* rows) {
  constexpr MakeLanes<kWidth>::Type all;
  for (int i = 0; i < kWidth; i += 4) {
    const FloatV a = interleave<0>(rows[i], rows[i + 2], all);
    const FloatV b = interleave<0>(rows[i + 1], rows[i + 3], all);
    const FloatV c = interleave<2>(rows[i], rows[i + 2], all);
    const FloatV d = interleave<2>(rows[i + 1], rows[i + 3], all);
    rows[i] = interleave<0>(a, b, all);
    rows[i + 1] = interleave<2>(a, b, all);
    rows[i + 2] = interleave<0>(c, d, all);
    rows[i + 3] = interleave<2>(c, d, all);
  }
  swap_all_quarters<4>(rows);
}

// e^x for x <= 0 (softmax needs no other); 0 below -87.3. Within 2 units in the last place: range reduction by ln 2 in
// two parts, then a polynomial of degree 6 on [-ln2/2, ln2/2] (Cephes' expf coefficients).
inline FloatV exp_of(FloatV x) {
  const FloatV lowest = splat(-87.3F);
  const IntV keep = x >= lowest;
  x = max_of(x, lowest);
  const FloatV magic = splat(12582912.0F);  // 1.5 * 2^23: adding it rounds to an integer
  const FloatV shifted = x * 1.44269504088896341F + magic;
  const FloatV n = shifted - magic;
  FloatV r = x - n * 0.693359375F;
  r = r + n * 2.12194440e-4F;
  FloatV p = splat(1.9875691500e-4F);
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * r * r + r + 1.0F;
  const IntV exponent = (__builtin_convertvector(n, IntV) + 127) << 23;
  const FloatV result = p * (FloatV)exponent;
  return (FloatV)((IntV)result & keep);
}

// The first or the second of each pair of bfloat16; the first is in the lower half.
template <int PART>
inline FloatV of_pairs(UIntV pairs) {
  return (FloatV)(PART == 0 ? pairs << 16 : pairs & 0xFFFF0000U);
}

// kWidth pairs of int8 as pairs of int16. By name: GCC 12 takes the bytes apart one by one.
inline IntV load_pairs(const int8_t* p) {
#if defined(__AVX512F__)
  return (IntV)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX2__)
  return (IntV)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p));
#elif defined(__SSE2__)
  const __m128i bytes = _mm_loadl_epi64((const __m128i*)p);
  return (IntV)_mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8);
#else
  BytePairV bytes;
  __builtin_memcpy(&bytes, p, sizeof(bytes));
  return (IntV) __builtin_convertvector(bytes, ShortPairV);
#endif
}

// In each of N lanes: sums += the products of a pair of int16 in x with one in w.
template <int N>
inline void add_pair_products(IntV (&sums)[N], IntV x, const IntV (&w)[N]) {
#if defined(__AVX512VNNI__)
  for (int j = 0; j < N; ++j) sums[j] = (IntV)_mm512_dpwssd_epi32((__m512i)sums[j], (__m512i)x, (__m512i)w[j]);
#elif defined(__AVX512F__)
  for (int j = 0; j < N; ++j) sums[j] += (IntV)_mm512_madd_epi16((__m512i)x, (__m512i)w[j]);
#elif defined(__AVX2__)
  // First all products, then all additions, and named, so that GCC 12 has no other order with more values than
  // registers: with a product and its addition in turns 146 GFLOP/s on a core of a Zen 3 in place of 160, in an order
  // of its own 88. (float32 reaches 101 in the same loop.)
  IntV products[N];
  for (int j = 0; j < N; ++j) __asm__("vpmaddwd %2, %1, %0" : "=x"(products[j]) : "x"(x), "x"(w[j]));
  for (int j = 0; j < N; ++j) __asm__("vpaddd %1, %0, %0" : "+x"(sums[j]) : "x"(products[j]));
#elif defined(__SSE2__)
  for (int j = 0; j < N; ++j) sums[j] += (IntV)_mm_madd_epi16((__m128i)x, (__m128i)w[j]);
#else
  for (int j = 0; j < N; ++j) sums[j] += (x << 16 >> 16) * (w[j] << 16 >> 16) + (x >> 16) * (w[j] >> 16);
#endif
}

// ---- elements: how a storage type becomes float32 and back ----

struct Float32 {
  typedef float Type;
  static inline FloatV load(const Type* p) { return NEOX_KERNEL_NAMESPACE::load(p); }
  static inline void store(Type* p, FloatV v) { NEOX_KERNEL_NAMESPACE::store(p, v); }
  static inline float get(const Type* p) { return *p; }
  static inline void put(Type* p, float v) { *p = v; }
};

struct BFloat16 {
  typedef uint16_t Type;
  static inline FloatV load(const Type* p) {
    ShortV raw;
    __builtin_memcpy(&raw, p, sizeof(raw));
    return (FloatV)(__builtin_convertvector(raw, UIntV) << 16);
  }
  // Round to nearest, ties to even; NaN stays NaN.
  static inline void store(Type* p, FloatV v) {
    const UIntV bits = (UIntV)v;
    const UIntV rounded = (bits + (0x7FFFU + ((bits >> 16) & 1U))) >> 16;
    const IntV nan = v != v;
    const UIntV chosen = (rounded & ~(UIntV)nan) | (0x7FC0U & (UIntV)nan);
    const ShortV raw = __builtin_convertvector(chosen, ShortV);
    __builtin_memcpy(p, &raw, sizeof(raw));
  }
  static inline float get(const Type* p) {
    const uint32_t bits = static_cast<uint32_t>(*p) << 16;
    float v;
    __builtin_memcpy(&v, &bits, sizeof(v));
    return v;
  }
  static inline void put(Type* p, float v) {
    uint32_t bits;
    __builtin_memcpy(&bits, &v, sizeof(v));
    *p = v != v ? 0x7FC0 : static_cast<uint16_t>((bits + (0x7FFFU + ((bits >> 16) & 1U))) >> 16);
  }
};

struct Float16 {
  typedef uint16_t Type;
  static inline float get(const Type* p) {
    // Works by arithmetic for subnormals too: shift into place, then scale by 2^112.
    const uint32_t sign = static_cast<uint32_t>(*p & 0x8000U) << 16;
    const uint32_t magnitude = static_cast<uint32_t>(*p & 0x7FFFU) << 13;
    const uint32_t scale_bits = 0x77800000U;  // 2^112
    float scale;
    float v;
    __builtin_memcpy(&scale, &scale_bits, sizeof(scale));
    __builtin_memcpy(&v, &magnitude, sizeof(v));
    v *= scale;
    uint32_t bits;
    __builtin_memcpy(&bits, &v, sizeof(bits));
    if ((*p & 0x7C00U) == 0x7C00U) bits = 0x7F800000U | (magnitude & 0x007FFFFFU);  // infinity, NaN
    bits |= sign;
    __builtin_memcpy(&v, &bits, sizeof(v));
    return v;
  }
  static inline void put(Type* p, float v) {
    uint32_t bits;
    __builtin_memcpy(&bits, &v, sizeof(bits));
    const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000U);
    bits &= 0x7FFFFFFFU;
    if (bits >= 0x7F800001U) {
      *p = sign | 0x7E00U;
    } else if (bits >= 0x477FF000U) {  // 65520 and more round to infinity
      *p = sign | 0x7C00U;
    } else if (bits < 0x38800000U) {  // below 2^-14: subnormal, rounded by adding 2^-1 in the right place
      const uint32_t half_bits = 0x3F000000U;
      float half;
      float magnitude;
      __builtin_memcpy(&half, &half_bits, sizeof(half));
      __builtin_memcpy(&magnitude, &bits, sizeof(magnitude));
      magnitude += half;
      uint32_t sum;
      __builtin_memcpy(&sum, &magnitude, sizeof(sum));
      *p = sign | static_cast<uint16_t>(sum - half_bits);
    } else {
      const uint32_t odd = (bits >> 13) & 1U;
      *p = sign | static_cast<uint16_t>((bits + 0xC8000FFFU + odd) >> 13);
    }
  }
  static inline FloatV load(const Type* p) {
    float parts[kWidth];
    for (int i = 0; i < kWidth; ++i) parts[i] = get(p + i);
    return NEOX_KERNEL_NAMESPACE::load(parts);
  }
  static inline void store(Type* p, FloatV v) {
    float parts[kWidth];
    NEOX_KERNEL_NAMESPACE::store(parts, v);
    for (int i = 0; i < kWidth; ++i) put(p + i, parts[i]);
  }
};

// Of the first `valid` elements, if a vector has more; the others are 0.
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

}  // namespace
}  // namespace neox::kernels::NEOX_KERNEL_NAMESPACE
