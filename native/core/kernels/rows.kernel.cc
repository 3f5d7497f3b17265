// Row-wise kernels: rotary embedding and the cross-entropy of one row of logits.
#include "core/kernels/functions.h"
#include "core/kernels/vector.h"

namespace neox::kernels::NEOX_KERNEL_NAMESPACE {
namespace {

// NeoX's half-split rotation of the first n = 2 * half dimensions: (a, b) -> (a cos - b sin, b cos + a sin), with a in
// the first half and b in the second. Rounded once, to the storage type.
template <typename E>
void rotate(typename E::Type* head, int64_t half, const float* cos, const float* sin, float direction) {
  int64_t i = 0;
  for (; i + kWidth <= half; i += kWidth) {
    const FloatV a = E::load(head + i);
    const FloatV b = E::load(head + half + i);
    const FloatV c = load(cos + i);
    const FloatV s = load(sin + i) * direction;
    E::store(head + i, a * c - b * s);
    E::store(head + half + i, b * c + a * s);
  }
  for (; i < half; ++i) {
    const float a = E::get(head + i);
    const float b = E::get(head + half + i);
    const float s = sin[i] * direction;
    E::put(head + i, a * cos[i] - b * s);
    E::put(head + half + i, b * cos[i] + a * s);
  }
}

template <typename E>
void rotate_heads(const RotaryTask& t) {
  const float direction = t.inverse ? -1.0F : 1.0F;
  for (int64_t n = 0; n < t.heads; ++n) {
    rotate<E>(static_cast<typename E::Type*>(t.query) + n * t.head_stride, t.half, t.cos, t.sin, direction);
    rotate<E>(static_cast<typename E::Type*>(t.key) + n * t.head_stride, t.half, t.cos, t.sin, direction);
  }
}

// Loss = log(sum(exp(x - max))) - (x[target] - max), its gradient softmax(x) - onehot(target). Three passes over a row
// that stays in the second-level cache: largest, sum, gradient.
template <typename E>
LossResult row_loss(typename E::Type* x, int64_t vocab, int64_t target, float scale) {
  const int64_t whole = vocab / kWidth * kWidth;
  FloatV top = splat(-3.4e38F);
  for (int64_t i = 0; i < whole; i += kWidth) top = max_of(top, E::load(x + i));
  float largest = largest_of(top);
  for (int64_t i = whole; i < vocab; ++i) largest = E::get(x + i) > largest ? E::get(x + i) : largest;

  // Four sums: one chain of additions would wait for itself, and 44,416 terms in one float32 lose digits.
  FloatV sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kWidth <= whole; i += 4 * kWidth) {
    for (int j = 0; j < 4; ++j) sums[j] += exp_of(E::load(x + i + j * kWidth) - largest);
  }
  for (; i < whole; i += kWidth) sums[0] += exp_of(E::load(x + i) - largest);
  float total = sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (int64_t j = whole; j < vocab; ++j) total += __builtin_expf(E::get(x + j) - largest);

  const float at_target = E::get(x + target);
  LossResult result;
  result.loss = __builtin_logf(total) - (at_target - largest);
  result.correct = at_target == largest;
  if (scale > 0.0F) {
    const float factor = scale / total;
    for (int64_t j = 0; j < whole; j += kWidth) E::store(x + j, exp_of(E::load(x + j) - largest) * factor);
    for (int64_t j = whole; j < vocab; ++j) E::put(x + j, __builtin_expf(E::get(x + j) - largest) * factor);
    E::put(x + target, __builtin_expf(at_target - largest) * factor - scale);
  }
  return result;
}

}  // namespace

void rotary(const RotaryTask& task) {
  switch (task.element) {
    case Element::kFloat32: return rotate_heads<Float32>(task);
    case Element::kBFloat16: return rotate_heads<BFloat16>(task);
    case Element::kFloat16: return rotate_heads<Float16>(task);
  }
}

LossResult cross_entropy(Element element, void* logits, int64_t vocab, int64_t target, float scale) {
  switch (element) {
    case Element::kFloat32: return row_loss<Float32>(static_cast<float*>(logits), vocab, target, scale);
    case Element::kBFloat16: return row_loss<BFloat16>(static_cast<uint16_t*>(logits), vocab, target, scale);
    case Element::kFloat16: return row_loss<Float16>(static_cast<uint16_t*>(logits), vocab, target, scale);
  }
  return {};
}

}  // namespace neox::kernels::NEOX_KERNEL_NAMESPACE
