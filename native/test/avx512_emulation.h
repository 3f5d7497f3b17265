// AVX-512 by name in plain C++, for processors that lack it: included in front of the kernel files, it makes them take
// the path of AVX512_BF16. The compiler splits their 64-byte vectors into what there is; only the instructions that the
// kernels call by name have to be written out. What this cannot show is speed, and how the real instruction rounds
// between its two products.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#define __AVX512F__ 1
#define __AVX512BF16__ 1
#define __AVX512VNNI__ 1

namespace {

typedef float Lanes16 __attribute__((vector_size(64)));
typedef int32_t IntLanes16 __attribute__((vector_size(64)));
typedef uint32_t UIntLanes16 __attribute__((vector_size(64)));
typedef int16_t ShortLanes32 __attribute__((vector_size(64)));
typedef int8_t Bytes32 __attribute__((vector_size(32)));

inline __m512i emulated_set1_epi32(int32_t value) { return (__m512i)(value - IntLanes16{}); }

inline __m512i emulated_loadu_si512(const void* p) {
  IntLanes16 v;
  __builtin_memcpy(&v, p, sizeof(v));
  return (__m512i)v;
}

inline __m512i emulated_cvtepi8_epi16(__m256i v) { return (__m512i) __builtin_convertvector((Bytes32)v, ShortLanes32); }

inline __m512 emulated_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
  const UIntLanes16 x = (UIntLanes16)a;
  const UIntLanes16 y = (UIntLanes16)b;
  const Lanes16 first = (Lanes16)(x << 16) * (Lanes16)(y << 16);
  const Lanes16 second = (Lanes16)(x & 0xFFFF0000U) * (Lanes16)(y & 0xFFFF0000U);
  return (__m512)((Lanes16)sum + second + first);
}

inline __m512i emulated_dpwssd_epi32(__m512i sum, __m512i a, __m512i b) {
  const IntLanes16 x = (IntLanes16)a;
  const IntLanes16 y = (IntLanes16)b;
  return (__m512i)((IntLanes16)sum + (x << 16 >> 16) * (y << 16 >> 16) + (x >> 16) * (y >> 16));
}

}  // namespace

#define _mm512_set1_epi32 emulated_set1_epi32
#define _mm512_loadu_si512 emulated_loadu_si512
#define _mm512_cvtepi8_epi16 emulated_cvtepi8_epi16
#define _mm512_dpbf16_ps emulated_dpbf16_ps
#define _mm512_dpwssd_epi32 emulated_dpwssd_epi32
