#include "core/checkpoint/convert_elements.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/base/error.h"

namespace neox {
namespace {

using c10::BFloat16;
using c10::Half;

constexpr int64_t kChunk = 256;  // elements that pass through float32 at a time

void load_scalar(const Half* source, float* target, int64_t n) {
  for (int64_t i = 0; i < n; ++i) target[i] = static_cast<float>(source[i]);
}

void store_scalar(const float* source, Half* target, int64_t n) {
  for (int64_t i = 0; i < n; ++i) target[i] = Half(source[i]);
}

#if defined(__x86_64__)
// The package is built for any x86-64; every CPU that runs PyTorch well has these two instructions.
const bool has_f16c = __builtin_cpu_supports("avx") && __builtin_cpu_supports("f16c");

__attribute__((target("avx,f16c"))) void load_f16c(const Half* source, float* target, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source + i));
    _mm256_storeu_ps(target + i, _mm256_cvtph_ps(halves));
  }
  load_scalar(source + i, target + i, n - i);
}

__attribute__((target("avx,f16c"))) void store_f16c(const float* source, Half* target, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(source + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target + i), halves);
  }
  store_scalar(source + i, target + i, n - i);
}
#else
constexpr bool has_f16c = false;
const auto& load_f16c = load_scalar;
const auto& store_f16c = store_scalar;
#endif

void load(const float* source, float* target, int64_t n) {
  std::memcpy(target, source, static_cast<size_t>(n) * sizeof(float));
}
void load(const double* source, float* target, int64_t n) {
  for (int64_t i = 0; i < n; ++i) target[i] = static_cast<float>(source[i]);
}
void load(const BFloat16* source, float* target, int64_t n) {
  for (int64_t i = 0; i < n; ++i) target[i] = static_cast<float>(source[i]);
}
void load(const Half* source, float* target, int64_t n) { (has_f16c ? load_f16c : load_scalar)(source, target, n); }

void store(const float* source, float* target, int64_t n) {
  std::memcpy(target, source, static_cast<size_t>(n) * sizeof(float));
}
void store(const float* source, Half* target, int64_t n) { (has_f16c ? store_f16c : store_scalar)(source, target, n); }

// Whether the exponent is all ones, i.e. infinity or NaN, counted without a branch.
int64_t count_special(const float* values, int64_t n) {
  int32_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    count += (bits & 0x7f800000U) == 0x7f800000U;
  }
  return count;
}
int64_t count_special(const Half* values, int64_t n) {
  int32_t count = 0;
  for (int64_t i = 0; i < n; ++i) count += (values[i].x & 0x7c00U) == 0x7c00U;
  return count;
}

template <typename Source, typename Target>
ConversionCounts convert(const void* source_data, void* target_data, int64_t n) {
  const auto* source = static_cast<const Source*>(source_data);
  auto* target = static_cast<Target*>(target_data);
  ConversionCounts counts;
  float values[kChunk];
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t size = std::min(kChunk, n - begin);
    if constexpr (std::is_same_v<Source, Target>) {
      std::memcpy(target + begin, source + begin, static_cast<size_t>(size) * sizeof(Target));
      counts.non_finite += count_special(target + begin, size);
      continue;
    }
    load(source + begin, values, size);
    store(values, target + begin, size);
    const int64_t special = count_special(target + begin, size);
    if (special == 0) continue;
    const int64_t before = count_special(values, size);
    counts.non_finite += before;
    counts.overflowed += special - before;
  }
  return counts;
}

template <typename Target>
ElementConverter* converter_from(c10::ScalarType source) {
  switch (source) {
    case c10::ScalarType::Float: return convert<float, Target>;
    case c10::ScalarType::Double: return convert<double, Target>;
    case c10::ScalarType::BFloat16: return convert<BFloat16, Target>;
    case c10::ScalarType::Half: return convert<Half, Target>;
    default:
      throw CoreError("NEOX_UNSUPPORTED", std::string("Cannot export weights of type ") + c10::toString(source) +
                                              "; floating-point weights can be exported");
  }
}

}  // namespace

ElementConverter* element_converter(c10::ScalarType source, c10::ScalarType target) {
  return target == c10::ScalarType::Half ? converter_from<Half>(source) : converter_from<float>(source);
}

}  // namespace neox
