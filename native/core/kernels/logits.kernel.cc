// Passes over one row of float32 logits, for choosing tokens.
#include "core/kernels/functions.h"
#include "core/kernels/vector.h"

namespace neox::kernels::NEOX_KERNEL_NAMESPACE {
namespace {

constexpr float kLargestFloat = 3.40282347e38F;

inline FloatV min_of(FloatV a, FloatV b) { return a < b ? a : b; }

inline bool any_of(IntV v) {
  int32_t parts[kWidth];
  __builtin_memcpy(parts, &v, sizeof(v));
  int32_t any = 0;
  for (int i = 0; i < kWidth; ++i) any |= parts[i];
  return any != 0;
}

int64_t first_at(const float* x, int64_t count, float value) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    if (any_of(load(x + i) == splat(value))) break;
  }
  while (i < count && x[i] != value) ++i;
  return i;
}

}  // namespace

RowRange row_range(const float* x, int64_t count) {
  const int64_t whole = count / kWidth * kWidth;
  const FloatV limit = splat(kLargestFloat);
  FloatV top = splat(-__builtin_inff());
  FloatV bottom = limit;
  IntV good = top < limit;
  for (int64_t i = 0; i < whole; i += kWidth) {
    const FloatV v = load(x + i);
    good &= v <= limit;  // false for NaN and +infinity
    top = max_of(top, v);
    bottom = min_of(bottom, v >= -limit ? v : limit);
  }
  RowRange range;
  range.finite = !any_of(~good);
  range.largest = largest_of(top);
  range.least = -largest_of(-bottom);
  for (int64_t i = whole; i < count; ++i) {
    range.finite = range.finite && x[i] <= kLargestFloat;
    range.largest = x[i] > range.largest ? x[i] : range.largest;
    if (x[i] >= -kLargestFloat && x[i] < range.least) range.least = x[i];
  }
  if (range.finite) range.first_largest = first_at(x, count, range.largest);
  return range;
}

double exp_sum(const float* x, int64_t count, float largest, float scale, float* out) {
  const int64_t whole = count / kWidth * kWidth;
  double total = 0.0;
  // A float32 sum of at most 64 vectors at a time: 44,416 terms in one would lose digits.
  for (int64_t first = 0; first < whole; first += 64 * kWidth) {
    const int64_t end = first + 64 * kWidth < whole ? first + 64 * kWidth : whole;
    FloatV sum = {};
    for (int64_t i = first; i < end; i += kWidth) {
      const FloatV weight = exp_of((load(x + i) - largest) * scale);
      sum += weight;
      if (out != nullptr) store(out + i, weight);
    }
    total += sum_of(sum);
  }
  for (int64_t i = whole; i < count; ++i) {
    const float power = (x[i] - largest) * scale;
    const float weight = power < -87.3F ? 0.0F : __builtin_expf(power);
    total += weight;
    if (out != nullptr) out[i] = weight;
  }
  return total;
}

int64_t at_least(const float* x, int64_t count, float least, int32_t* out) {
  int64_t found = 0;
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    if (!any_of(load(x + i) >= splat(least))) continue;
    for (int j = 0; j < kWidth; ++j) {
      out[found] = static_cast<int32_t>(i + j);
      found += x[i + j] >= least ? 1 : 0;
    }
  }
  for (; i < count; ++i) {
    if (x[i] >= least) out[found++] = static_cast<int32_t>(i);
  }
  return found;
}

}  // namespace neox::kernels::NEOX_KERNEL_NAMESPACE
