// Converts runs of checkpoint elements to float32 or float16 as numpy's astype does. (float64 goes through float32.)
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

namespace neox {

struct ConversionCounts {
  int64_t overflowed = 0;  // finite before, infinite after
  int64_t non_finite = 0;  // infinite or NaN before

  ConversionCounts& operator+=(const ConversionCounts& other) {
    overflowed += other.overflowed;
    non_finite += other.non_finite;
    return *this;
  }
};

// n elements from source to target, which must not overlap. Rounds to nearest even; too large becomes infinite.
using ElementConverter = ConversionCounts(const void* source, void* target, int64_t n);

// Throws CoreError(NEOX_UNSUPPORTED) for other source dtypes.
ElementConverter* element_converter(c10::ScalarType source, c10::ScalarType target);

}  // namespace neox
