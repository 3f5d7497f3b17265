// The nonlinearity of the MLP and its derivative, in float32 whatever the storage type. Each element is computed by the
// same vector code wherever it stands: ATen's operators compute what is left at the end of a thread's share by another
// formula, which rounds differently, so that a row's result depended on the rows beside it and on the number of
// threads.
#include "core/kernels/functions.h"
#include "core/kernels/math.h"

namespace neox::kernels::NEOX_KERNEL_NAMESPACE {
namespace {

struct Gelu {
  static inline FloatV value(FloatV x) { return gelu_of(x); }
  // 0.5 (1 + erf(x / sqrt 2)) + x exp(-x^2 / 2) / sqrt(2 pi)
  static inline FloatV slope(FloatV x) {
    return 0.5F * (1.0F + erf_of(x * kInverseRoot2)) + x * exp_of(x * x * -0.5F) * kInverseRoot2Pi;
  }
};

struct GeluTanh {
  static inline FloatV value(FloatV x) { return gelu_tanh_of(x); }
  static inline FloatV slope(FloatV x) {
    const FloatV t = tanh_of(kTanhScale * (x + kTanhCube * x * x * x));
    return 0.5F * (1.0F + t) + 0.5F * x * (1.0F - t * t) * kTanhScale * (1.0F + 3.0F * kTanhCube * x * x);
  }
};

struct QuickGelu {
  static inline FloatV value(FloatV x) { return x * sigmoid_of(x * kQuick); }
  static inline FloatV slope(FloatV x) {
    const FloatV s = sigmoid_of(x * kQuick);
    return s * (1.0F + kQuick * x * (1.0F - s));
  }
};

struct Relu {
  static inline FloatV value(FloatV x) { return x > 0.0F ? x : FloatV{}; }
  static inline FloatV slope(FloatV x) { return x > 0.0F ? splat(1.0F) : FloatV{}; }
};

struct Silu {
  static inline FloatV value(FloatV x) { return x * sigmoid_of(x); }
  static inline FloatV slope(FloatV x) {
    const FloatV s = sigmoid_of(x);
    return s * (1.0F + x * (1.0F - s));
  }
};

// Calls op(from, to) on whole vectors; the rest goes through a padded copy.
template <typename E, typename Op>
inline void each_vector(int64_t n, const typename E::Type* x, const typename E::Type* dy, typename E::Type* out,
                        const Op& op) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) E::store(out + i, op(E::load(x + i), E::load(dy + i)));
  if (i == n) return;
  typename E::Type tail[3][kWidth] = {};
  for (int64_t j = i; j < n; ++j) {
    tail[0][j - i] = x[j];
    tail[1][j - i] = dy[j];
  }
  E::store(tail[2], op(E::load(tail[0]), E::load(tail[1])));
  for (int64_t j = i; j < n; ++j) out[j] = tail[2][j - i];
}

template <typename E, typename F>
void run(const ActivationTask& t) {
  const auto* x = static_cast<const typename E::Type*>(t.x);
  auto* out = static_cast<typename E::Type*>(t.out);
  if (t.dy == nullptr) {
    each_vector<E>(t.count, x, x, out, [](FloatV v, FloatV) { return F::value(v); });
  } else {
    each_vector<E>(t.count, x, static_cast<const typename E::Type*>(t.dy), out,
                   [](FloatV v, FloatV g) { return g * F::slope(v); });
  }
}

template <typename E>
void choose(const ActivationTask& t) {
  switch (t.function) {
    case Function::kGelu: return run<E, Gelu>(t);
    case Function::kGeluTanh: return run<E, GeluTanh>(t);
    case Function::kQuickGelu: return run<E, QuickGelu>(t);
    case Function::kRelu: return run<E, Relu>(t);
    case Function::kSilu: return run<E, Silu>(t);
  }
}

}  // namespace

void activation(const ActivationTask& task) {
  switch (task.element) {
    case Element::kFloat32: return choose<Float32>(task);
    case Element::kBFloat16: return choose<BFloat16>(task);
    case Element::kFloat16: return choose<Float16>(task);
  }
}

}  // namespace neox::kernels::NEOX_KERNEL_NAMESPACE
