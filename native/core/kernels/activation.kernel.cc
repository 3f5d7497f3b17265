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

struct Gelu10 {
  static inline FloatV value(FloatV x) { return clamp(gelu_of(x), 10.0F); }
  static inline FloatV slope(FloatV x) { return gelu_of(x) > 10.0F ? FloatV{} : Gelu::slope(x); }
};

struct Relu2 {
  static inline FloatV value(FloatV x) { return x > 0.0F ? x * x : FloatV{}; }
  static inline FloatV slope(FloatV x) { return x > 0.0F ? 2.0F * x : FloatV{}; }
};

struct Relu6 {
  static inline FloatV value(FloatV x) { return x > 0.0F ? (x < 6.0F ? x : splat(6.0F)) : FloatV{}; }
  static inline FloatV slope(FloatV x) { return x > 0.0F ? (x < 6.0F ? splat(1.0F) : FloatV{}) : FloatV{}; }
};

struct LeakyRelu {
  static inline FloatV value(FloatV x) { return x > 0.0F ? x : x * 0.01F; }
  static inline FloatV slope(FloatV x) { return x > 0.0F ? splat(1.0F) : splat(0.01F); }
};

struct HardSwish {
  // x relu6(x + 3) / 6
  static inline FloatV value(FloatV x) { return x * Relu6::value(x + 3.0F) * (1.0F / 6.0F); }
  static inline FloatV slope(FloatV x) {
    const FloatV middle = x * (1.0F / 3.0F) + 0.5F;
    return x > -3.0F ? (x < 3.0F ? middle : splat(1.0F)) : FloatV{};
  }
};

// x tanh(log(1 + e^x)). With w = e^x (e^x + 2) the tanh is w / (w + 2): no logarithm.
struct Mish {
  static inline FloatV w_of(FloatV x) {
    const FloatV e = exp_of(x < 20.0F ? x : splat(20.0F));
    return e * (e + 2.0F);
  }
  static inline FloatV value(FloatV x) {
    const FloatV w = w_of(x);
    return x * (w / (w + 2.0F));
  }
  static inline FloatV slope(FloatV x) {
    const FloatV w = w_of(x);
    const FloatV rest = 1.0F / (w + 2.0F);
    return w * rest + x * sigmoid_of(x) * 4.0F * (w + 1.0F) * rest * rest;
  }
};

// sqrt(log(1 + e^x))
struct SqrtSoftplus {
  static inline FloatV value(FloatV x) {
    // Far below 0 it is e^(x/2), where the logarithm would be too small for a float.
    return x < -15.0F ? exp_of(x * 0.5F) : sqrt_of(softplus_of(x));
  }
  static inline FloatV slope(FloatV x) {
    return x < -15.0F ? 0.5F * exp_of(x * 0.5F) : 0.5F * sigmoid_of(x) / sqrt_of(softplus_of(x));
  }
};

struct Sigmoid {
  static inline FloatV value(FloatV x) { return sigmoid_of(x); }
  static inline FloatV slope(FloatV x) {
    const FloatV s = sigmoid_of(x);
    return s * (1.0F - s);
  }
};

struct Tanh {
  static inline FloatV value(FloatV x) { return tanh_of(x); }
  static inline FloatV slope(FloatV x) {
    const FloatV t = tanh_of(x);
    return 1.0F - t * t;
  }
};

// The distribution function of a normal distribution.
struct Laplace {
  static constexpr float kMean = 0.707107F;
  static constexpr float kScale = 1.0F / (0.282095F * 1.41421356F);  // 1 / (deviation sqrt 2)
  static inline FloatV value(FloatV x) { return 0.5F * (1.0F + erf_of((x - kMean) * kScale)); }
  static inline FloatV slope(FloatV x) {
    const FloatV z = (x - kMean) * kScale;
    return exp_of(-z * z) * (kScale * 0.56418958F);  // 1 / sqrt(pi)
  }
};

struct Linear {
  static inline FloatV value(FloatV x) { return x; }
  static inline FloatV slope(FloatV) { return splat(1.0F); }
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
    case Function::kGelu10: return run<E, Gelu10>(t);
    case Function::kQuickGelu: return run<E, QuickGelu>(t);
    case Function::kRelu: return run<E, Relu>(t);
    case Function::kRelu2: return run<E, Relu2>(t);
    case Function::kRelu6: return run<E, Relu6>(t);
    case Function::kLeakyRelu: return run<E, LeakyRelu>(t);
    case Function::kSilu: return run<E, Silu>(t);
    case Function::kHardSwish: return run<E, HardSwish>(t);
    case Function::kMish: return run<E, Mish>(t);
    case Function::kSqrtSoftplus: return run<E, SqrtSoftplus>(t);
    case Function::kSigmoid: return run<E, Sigmoid>(t);
    case Function::kTanh: return run<E, Tanh>(t);
    case Function::kLaplace: return run<E, Laplace>(t);
    case Function::kLinear: return run<E, Linear>(t);
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
