// Elementary functions over vectors of float32, for *.kernel.cc.
#pragma once

#include "core/kernels/vector.h"

namespace neox::kernels::NEOX_KERNEL_NAMESPACE {
namespace {

inline FloatV abs_of(FloatV x) { return x < 0.0F ? -x : x; }
inline FloatV clamp(FloatV x, float limit) {
  x = x < -limit ? splat(-limit) : x;
  return x > limit ? splat(limit) : x;
}

// erf as a rational function of degree 13 over 8 on [-4, 4], where float32's erf reaches 1 (the coefficients of Eigen's
// generic_fast_erf_float); within 3e-7.
inline FloatV erf_of(FloatV x) {
  x = clamp(x, 4.0F);
  const FloatV x2 = x * x;
  FloatV p = x2 * -2.72614225801306e-10F + 2.77068142495902e-08F;
  p = p * x2 - 2.10102402082508e-06F;
  p = p * x2 - 5.69250639462346e-05F;
  p = p * x2 - 7.34990630326855e-04F;
  p = p * x2 - 2.95459980854025e-03F;
  p = p * x2 - 1.60960333262415e-02F;
  FloatV q = x2 * -1.45660718464996e-05F - 2.13374055278905e-04F;
  q = q * x2 - 1.68282697438203e-03F;
  q = q * x2 - 7.37332916720468e-03F;
  q = q * x2 - 1.42647390514189e-02F;
  return x * p / q;
}

inline FloatV tanh_of(FloatV x) {
  const FloatV e = exp_of(abs_of(x) * -2.0F);
  const FloatV t = (1.0F - e) / (1.0F + e);
  return x < 0.0F ? -t : t;
}

inline FloatV sigmoid_of(FloatV x) {
  const FloatV e = exp_of(-abs_of(x));
  return (x < 0.0F ? e : splat(1.0F)) / (1.0F + e);
}

inline FloatV sqrt_of(FloatV x) {
  float parts[kWidth];
  store(parts, x);
  for (int i = 0; i < kWidth; ++i) parts[i] = __builtin_sqrtf(parts[i]);
  return load(parts);
}

// log(1 + e^x) = max(x, 0) + log(1 + u) with u = e^-|x|, and log(1 + u) = 2 atanh(z) with z = u / (2 + u), which is at
// most 1/3: seven terms of its series are within 2e-8.
inline FloatV softplus_of(FloatV x) {
  const FloatV u = exp_of(-abs_of(x));
  const FloatV z = u / (2.0F + u);
  const FloatV z2 = z * z;
  FloatV series = z2 * (1.0F / 13.0F) + 1.0F / 11.0F;
  series = series * z2 + 1.0F / 9.0F;
  series = series * z2 + 1.0F / 7.0F;
  series = series * z2 + 1.0F / 5.0F;
  series = series * z2 + 1.0F / 3.0F;
  series = series * z2 + 1.0F;
  return (x > 0.0F ? x : FloatV{}) + 2.0F * z * series;
}

constexpr float kInverseRoot2 = 0.70710678118654752F;
constexpr float kInverseRoot2Pi = 0.39894228040143268F;
constexpr float kTanhScale = 0.79788456080286536F;  // sqrt(2 / pi)
constexpr float kTanhCube = 0.044715F;
constexpr float kQuick = 1.702F;

inline FloatV gelu_of(FloatV x) { return x * 0.5F * (1.0F + erf_of(x * kInverseRoot2)); }

inline FloatV gelu_tanh_of(FloatV x) { return x * 0.5F * (1.0F + tanh_of(kTanhScale * (x + kTanhCube * x * x * x))); }

}  // namespace
}  // namespace neox::kernels::NEOX_KERNEL_NAMESPACE
