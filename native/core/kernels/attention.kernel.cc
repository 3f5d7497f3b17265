// Attention of one head of one row, softmax(q k^T D^-0.5) v, over the keys [prefix | past | new tokens], causal among
// the new ones. All arithmetic is float32 whatever the storage type. Each call depends on its own row alone, so a row's
// result does not depend on its neighbours in a batch.
#include "core/kernels/functions.h"
#include "core/kernels/vector.h"

namespace neox::kernels::NEOX_KERNEL_NAMESPACE {
namespace {

constexpr int kKeyVectors =
    2;  // vectors of keys that one query is compared with together: one would wait for its own sums
constexpr int64_t kQueryTile = 48;  // queries handled together; a multiple of every kTileRows

struct Sizes {
  int64_t dim, dim_padded;    // D
  int64_t keys, keys_padded;  // S = P + past + T
  int64_t before;             // keys that every query sees: P + past
};

Sizes sizes_of(const AttentionTask& t) {
  Sizes s;
  s.dim = t.head_size;
  s.dim_padded = round_up(t.head_size, 16);
  s.keys = t.prefix.length + t.text.length;
  s.keys_padded = round_up(s.keys, 16);
  s.before = s.keys - t.tokens;
  return s;
}

template <typename E>
void unpack_row(const typename E::Type* from, int64_t n, float* to, int64_t padded) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(to + i, E::load(from + i));
  for (; i < n; ++i) to[i] = E::get(from + i);
  for (; i < padded; ++i) to[i] = 0.0F;
}

template <typename E>
void pack_row(const float* from, int64_t n, typename E::Type* to) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) E::store(to + i, load(from + i));
  for (; i < n; ++i) E::put(to + i, from[i]);
}

// Row s of the joined keys (or values): the prefix first, then the text.
template <typename E>
inline const typename E::Type* row_of(const AttentionTask& t, int64_t s, bool values) {
  const KeyValueSpan& span = s < t.prefix.length ? t.prefix : t.text;
  const int64_t index = s < t.prefix.length ? s : s - t.prefix.length;
  return static_cast<const typename E::Type*>(values ? span.values : span.keys) + index * span.token_stride;
}

// to [S, D padded]
template <typename E>
void unpack_rows(const AttentionTask& t, const Sizes& z, bool values, float* to) {
  for (int64_t s = 0; s < z.keys; ++s)
    unpack_row<E>(row_of<E>(t, s, values), z.dim, to + s * z.dim_padded, z.dim_padded);
}

// rows [S, D padded] -> to [D, S padded]; in blocks that keep both sides in cache.
void transpose(const float* rows, const Sizes& z, float* to) {
  for (int64_t s0 = 0; s0 < z.keys; s0 += 16) {
    const int64_t s1 = s0 + 16 < z.keys ? s0 + 16 : z.keys;
    for (int64_t d = 0; d < z.dim; ++d) {
      float* line = to + d * z.keys_padded;
      for (int64_t s = s0; s < s1; ++s) line[s] = rows[s * z.dim_padded + d];
    }
  }
  for (int64_t d = 0; d < z.dim; ++d) {
    for (int64_t s = z.keys; s < z.keys_padded; ++s) to[d * z.keys_padded + s] = 0.0F;
  }
}

// In place over the first `visible` of `padded` scores; the rest becomes 0. The scores are scaled on the way.
void softmax(float* scores, int64_t visible, int64_t padded, float scale) {
  const float lowest = -3.4e38F;
  for (int64_t s = visible; s < padded; ++s) scores[s] = lowest;
  FloatV top = splat(lowest);
  const int64_t end = round_up(visible, kWidth);
  for (int64_t s = 0; s < end; s += kWidth) top = max_of(top, load(scores + s));
  const float largest = largest_of(top);
  FloatV total = {};
  for (int64_t s = 0; s < end; s += kWidth) {
    // scale > 0, so the largest score is also the largest scaled one
    const FloatV e = exp_of((load(scores + s) - largest) * scale);
    total += e;
    store(scores + s, e);
  }
  const float inverse = 1.0F / sum_of(total);
  for (int64_t s = 0; s < end; s += kWidth) store(scores + s, load(scores + s) * inverse);
  for (int64_t s = visible; s < padded; ++s) scores[s] = 0.0F;
}

// Products of a query with kWidth keys from s0 on, one key a lane.
template <typename E>
FloatV compare_keys(const AttentionTask& t, const Sizes& z, const float* query, int64_t s0) {
  // Behind the last key its own row stands in for those that are not there.
  const typename E::Type* rows[kWidth];
  for (int j = 0; j < kWidth; ++j) rows[j] = row_of<E>(t, s0 + j < z.keys ? s0 + j : z.keys - 1, false);
  FloatV dots = {};
  int64_t d = 0;
  for (; d + kWidth <= z.dim; d += kWidth) {
    FloatV tile[kWidth];
    for (int j = 0; j < kWidth; ++j) tile[j] = E::load(rows[j] + d);
    transpose_tile(tile);
    for (int j = 0; j < kWidth; ++j) dots += splat(query[d + j]) * tile[j];
  }
  for (; d < z.dim; ++d) {
    float column[kWidth];
    for (int j = 0; j < kWidth; ++j) column[j] = E::get(rows[j] + d);
    dots += splat(query[d]) * load(column);
  }
  return dots;
}

// Of VECTORS vectors of the values, from element d on: their sum under the weights [S].
template <typename E, int VECTORS>
void weigh_values(const AttentionTask& t, const Sizes& z, const float* weights, int64_t d, float* to) {
  FloatV sums[VECTORS] = {};
  for (int64_t s = 0; s < z.keys; ++s) {
    const auto* value = row_of<E>(t, s, true) + d;
    for (int j = 0; j < VECTORS; ++j) sums[j] += splat(weights[s]) * E::load(value + j * kWidth);
  }
  for (int j = 0; j < VECTORS; ++j) store(to + d + j * kWidth, sums[j]);
}

// One new token: keys and values are read once, where they lie. Every sum goes over its terms in the order of the
// matrix products below, so that a token's result is the same to the bit whether it comes alone or with those before
// it.
template <typename E>
void decode_forward(const AttentionTask& t, const Sizes& z, float* scratch) {
  float* query = scratch;              // [D padded]
  float* sum = query + z.dim_padded;   // [D padded]
  float* scores = sum + z.dim_padded;  // [S padded]
  unpack_row<E>(static_cast<const typename E::Type*>(t.queries), z.dim, query, z.dim_padded);
  for (int64_t s = 0; s < z.keys; s += kWidth) store(scores + s, compare_keys<E>(t, z, query, s));
  softmax(scores, z.keys, z.keys_padded, t.scale);
  int64_t d = 0;
  for (; d + 4 * kWidth <= z.dim; d += 4 * kWidth) weigh_values<E, 4>(t, z, scores, d, sum);
  for (; d + kWidth <= z.dim; d += kWidth) weigh_values<E, 1>(t, z, scores, d, sum);
  for (; d < z.dim; ++d) {
    float total = 0.0F;
    for (int64_t s = 0; s < z.keys; ++s) total += scores[s] * E::get(row_of<E>(t, s, true) + d);
    sum[d] = total;
  }
  pack_row<E>(sum, z.dim, static_cast<typename E::Type*>(t.out));
}

template <typename E>
void forward(const AttentionTask& t, float* scratch) {
  const Sizes z = sizes_of(t);
  if (t.tokens == 1) {
    decode_forward<E>(t, z, scratch);
    return;
  }
  float* rows = scratch;                                // [S, D padded]: keys, then values
  float* keys_t = rows + z.keys * z.dim_padded;         // [D, S padded]
  float* queries = keys_t + z.dim * z.keys_padded;      // [tile, D padded]
  float* scores = queries + kQueryTile * z.dim_padded;  // [tile, S padded]
  float* sums = scores + kQueryTile * z.keys_padded;    // [tile, D padded]
  unpack_rows<E>(t, z, false, rows);
  transpose(rows, z, keys_t);
  unpack_rows<E>(t, z, true, rows);
  const auto* query = static_cast<const typename E::Type*>(t.queries);
  auto* out = static_cast<typename E::Type*>(t.out);
  for (int64_t t0 = 0; t0 < t.tokens; t0 += kQueryTile) {
    const int64_t count = t0 + kQueryTile < t.tokens ? kQueryTile : t.tokens - t0;
    const int64_t seen = z.before + t0 + count;  // keys that the last query of this tile sees
    const int64_t seen_padded = round_up(seen, 16);
    for (int64_t i = 0; i < count; ++i)
      unpack_row<E>(query + (t0 + i) * t.query_stride, z.dim, queries + i * z.dim_padded, z.dim_padded);
    const int64_t visible = z.before + t0 + 1;  // keys that the first query sees; each further one sees one more
    matmul({count, seen_padded, z.dim, queries, z.dim_padded, 1, keys_t, z.keys_padded, scores, z.keys_padded, false,
            Triangle::kColumns, visible});
    for (int64_t i = 0; i < count; ++i) softmax(scores + i * z.keys_padded, visible + i, seen_padded, t.scale);
    matmul({count, z.dim_padded, seen, scores, z.keys_padded, 1, rows, z.dim_padded, sums, z.dim_padded, false,
            Triangle::kInner, visible});
    for (int64_t i = 0; i < count; ++i) pack_row<E>(sums + i * z.dim_padded, z.dim, out + (t0 + i) * t.out_stride);
  }
}

// With p = softmax(s), s = scale * q k^T, o = p v and g = do:
//   dv = p^T g;  dp = g v^T;  ds = p * (dp - sum(p * dp));  dq = scale * ds k;  dk = scale * ds^T q
template <typename E>
void backward(const AttentionTask& t, float* scratch) {
  const Sizes z = sizes_of(t);
  const bool text_too = t.grad_queries != nullptr;
  float* keys = scratch;                                   // [S, D padded]
  float* keys_t = keys + z.keys * z.dim_padded;            // [D, S padded]
  float* values_t = keys_t + z.dim * z.keys_padded;        // [D, S padded]
  float* grad_keys = values_t + z.dim * z.keys_padded;     // [S, D padded]
  float* grad_values = grad_keys + z.keys * z.dim_padded;  // [S, D padded]
  float* queries = grad_values + z.keys * z.dim_padded;    // [tile, D padded]
  float* grads = queries + kQueryTile * z.dim_padded;      // [tile, D padded]: do, then dq
  float* probs = grads + kQueryTile * z.dim_padded;        // [tile, S padded]
  float* dprobs = probs + kQueryTile * z.keys_padded;      // [tile, S padded]
  unpack_rows<E>(t, z, true, keys);
  transpose(keys, z, values_t);
  unpack_rows<E>(t, z, false, keys);
  transpose(keys, z, keys_t);
  // When only the prefix wants gradients, the others are not computed at all.
  const int64_t wanted = text_too ? z.keys : t.prefix.length;
  for (int64_t i = 0; i < z.keys * z.dim_padded; ++i) grad_keys[i] = grad_values[i] = 0.0F;
  const auto* query = static_cast<const typename E::Type*>(t.queries);
  const auto* grad_out = static_cast<const typename E::Type*>(t.grad_out);
  for (int64_t t0 = 0; t0 < t.tokens; t0 += kQueryTile) {
    const int64_t count = t0 + kQueryTile < t.tokens ? kQueryTile : t.tokens - t0;
    const int64_t seen = z.before + t0 + count;
    const int64_t seen_padded = round_up(seen, 16);
    const int64_t rows = seen < wanted ? seen : wanted;
    for (int64_t i = 0; i < count; ++i) {
      unpack_row<E>(query + (t0 + i) * t.query_stride, z.dim, queries + i * z.dim_padded, z.dim_padded);
      unpack_row<E>(grad_out + (t0 + i) * t.out_stride, z.dim, grads + i * z.dim_padded, z.dim_padded);
    }
    const int64_t visible = z.before + t0 + 1;  // keys that the first query sees; each further one sees one more
    matmul({count, seen_padded, z.dim, queries, z.dim_padded, 1, keys_t, z.keys_padded, probs, z.keys_padded, false,
            Triangle::kColumns, visible});
    for (int64_t i = 0; i < count; ++i) softmax(probs + i * z.keys_padded, visible + i, seen_padded, t.scale);
    matmul({count, seen_padded, z.dim, grads, z.dim_padded, 1, values_t, z.keys_padded, dprobs, z.keys_padded, false,
            Triangle::kColumns, visible});
    // dv += p^T g
    matmul({rows, z.dim_padded, count, probs, 1, z.keys_padded, grads, z.dim_padded, grad_values, z.dim_padded, true,
            Triangle::kInnerOfOther, visible});
    for (int64_t i = 0; i < count; ++i) {
      const float* p = probs + i * z.keys_padded;
      float* dp = dprobs + i * z.keys_padded;
      const int64_t end = round_up(visible + i, kWidth);  // what follows has not been computed
      FloatV dot = {};
      for (int64_t s = 0; s < end; s += kWidth) dot += load(p + s) * load(dp + s);
      const float mean = sum_of(dot);
      for (int64_t s = 0; s < end; s += kWidth) store(dp + s, load(p + s) * (load(dp + s) - mean) * t.scale);
      for (int64_t s = end; s < seen_padded; s += kWidth) store(dp + s, FloatV{});
    }
    // dk += ds^T q
    matmul({rows, z.dim_padded, count, dprobs, 1, z.keys_padded, queries, z.dim_padded, grad_keys, z.dim_padded, true,
            Triangle::kInnerOfOther, visible});
    if (!text_too) continue;
    matmul({count, z.dim_padded, seen, dprobs, z.keys_padded, 1, keys, z.dim_padded, grads, z.dim_padded, false,
            Triangle::kInner, visible});
    auto* grad_query = static_cast<typename E::Type*>(t.grad_queries);
    for (int64_t i = 0; i < count; ++i)
      pack_row<E>(grads + i * z.dim_padded, z.dim, grad_query + (t0 + i) * t.grad_stride);
  }
  for (int64_t s = 0; s < t.prefix.length; ++s) {
    for (int64_t d = 0; d < z.dim; ++d) {
      t.grad_prefix_keys[s * z.dim + d] = grad_keys[s * z.dim_padded + d];
      t.grad_prefix_values[s * z.dim + d] = grad_values[s * z.dim_padded + d];
    }
  }
  if (!text_too) return;
  auto* grad_key = static_cast<typename E::Type*>(t.grad_keys);
  auto* grad_value = static_cast<typename E::Type*>(t.grad_values);
  for (int64_t i = 0; i < t.tokens; ++i) {
    pack_row<E>(grad_keys + (z.before + i) * z.dim_padded, z.dim, grad_key + i * t.grad_stride);
    pack_row<E>(grad_values + (z.before + i) * z.dim_padded, z.dim, grad_value + i * t.grad_stride);
  }
}

}  // namespace

int64_t attention_forward_scratch(const AttentionTask& task) {
  const Sizes z = sizes_of(task);
  if (task.tokens == 1) return 2 * z.dim_padded + z.keys_padded;
  return z.keys * z.dim_padded + z.dim * z.keys_padded + kQueryTile * (2 * z.dim_padded + z.keys_padded);
}

int64_t attention_backward_scratch(const AttentionTask& task) {
  const Sizes z = sizes_of(task);
  return 3 * z.keys * z.dim_padded + 2 * z.dim * z.keys_padded + 2 * kQueryTile * (z.dim_padded + z.keys_padded);
}

void attention_forward(const AttentionTask& task, float* scratch) {
  switch (task.element) {
    case Element::kFloat32: return forward<Float32>(task, scratch);
    case Element::kBFloat16: return forward<BFloat16>(task, scratch);
    case Element::kFloat16: return forward<Float16>(task, scratch);
  }
}

void attention_backward(const AttentionTask& task, float* scratch) {
  switch (task.element) {
    case Element::kFloat32: return backward<Float32>(task, scratch);
    case Element::kBFloat16: return backward<BFloat16>(task, scratch);
    case Element::kFloat16: return backward<Float16>(task, scratch);
  }
}

}  // namespace neox::kernels::NEOX_KERNEL_NAMESPACE
