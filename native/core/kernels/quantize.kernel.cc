// Values as integers with a scale: of int8 for weights, once, and of int16 for the rows that are multiplied with them,
// again and again.
#include "core/kernels/functions.h"
#include "core/kernels/math.h"
#include "core/kernels/vector.h"

namespace neox::kernels::NEOX_KERNEL_NAMESPACE {
namespace {

// What makes of values up to the largest of them integers up to `limit`. The scale is NaN where NaN or infinity is
// among the values, and the integers are nothing then; both are 0 where the inverse could be infinite.
struct Rounding {
  float scale = 0.0F;
  float inverse = 0.0F;

  // Of value(i), kWidth values from i on, for all i below `count`.
  template <typename F>
  Rounding(int64_t count, float limit, const F& value) {
    // Without their sign, bits of floats are in the order of what they stand for; infinity and NaN are the largest.
    IntV bits = {};
    for (int64_t i = 0; i < count; i += kWidth) {
      const IntV own = (IntV)value(i) & 0x7FFFFFFF;
      bits = own > bits ? own : bits;
    }
    const float largest = largest_of((FloatV)(bits < 0x7F800000 ? bits : IntV{}));
    int32_t finite = -1;
    for (int j = 0; j < kWidth; ++j) finite &= bits[j] < 0x7F800000 ? -1 : 0;
    if (finite == 0) {
      scale = __builtin_nanf("");
    } else if (largest > 1e-30F) {
      scale = largest / limit;
      inverse = limit / largest;
    }
  }

  // The nearest integers in the lowest 16 bits: that is where 1.5 * 2^23 leaves them.
  UIntV operator()(FloatV v) const { return (UIntV)(v * inverse + 12582912.0F); }
};

template <typename E>
void quantize_row(const QuantizeTask& t, int64_t row) {
  const auto* x = static_cast<const typename E::Type*>(t.x) + row * t.x_stride;
  int16_t* out = t.out + row * t.out_stride;
  float* scales = t.scales + row * quantized_chunks(t.k);
  for (int64_t first = 0; first < t.k; first += kQuantizedChunk) {
    const int64_t count = t.k - first < kQuantizedChunk ? t.k - first : kQuantizedChunk;
    const auto value = [&](int64_t i) {
      const FloatV v = load_part<E>(x + first + i, count - i);
      return t.factors == nullptr ? v : v * load_part<Float32>(t.factors + first + i, count - i);
    };
    const Rounding rounding(count, static_cast<float>(kQuantizedLimit), value);
    *scales++ = rounding.scale;
    for (int64_t i = 0; i < count; i += kWidth) {
      const ShortV shorts = __builtin_convertvector(rounding(value(i)), ShortV);
      if (count - i >= kWidth) {
        __builtin_memcpy(out + first + i, &shorts, sizeof(shorts));
      } else {
        for (int64_t j = 0; i + j < count; ++j) out[first + i + j] = static_cast<int16_t>(shorts[j]);
      }
    }
  }
  for (int64_t i = t.k; i < t.out_stride; ++i) out[i] = 0;
}

}  // namespace

float quantize(const float* weights, int64_t count, int8_t* out) {
  const auto value = [&](int64_t i) { return load_part<Float32>(weights + i, count - i); };
  const Rounding rounding(count, 127.0F, value);
  for (int64_t i = 0; i < count; i += kWidth) {
    const ShortV shorts = __builtin_convertvector(rounding(value(i)), ShortV);
    uint16_t parts[kWidth];
    __builtin_memcpy(parts, &shorts, sizeof(parts));
    const int64_t valid = count - i < kWidth ? count - i : kWidth;
    for (int64_t j = 0; j < valid; ++j) out[i + j] = static_cast<int8_t>(parts[j]);
  }
  return rounding.scale;
}

void quantize_rows(const QuantizeTask& task, int64_t first_row, int64_t last_row) {
  for (int64_t row = first_row; row < last_row; ++row) {
    if (task.element == Element::kFloat32) quantize_row<Float32>(task, row);
    if (task.element == Element::kBFloat16) quantize_row<BFloat16>(task, row);
  }
}

}  // namespace neox::kernels::NEOX_KERNEL_NAMESPACE
