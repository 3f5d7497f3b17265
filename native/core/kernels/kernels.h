// Compute kernels of our own for CPUs, used where a general library leaves most of the machine idle: attention over
// packed rows of unequal length (forward and backward), rotary embedding, activations, and passes over rows of logits.
//
// The code in *.kernel.cc is compiled once per instruction set; `kernels()` chooses at run time. Those files include no
// header with inline functions: the linker keeps one copy of an inline function, and it must not be one with
// instructions that an older processor lacks. So this interface is plain data and pointers.
#pragma once

#include <cstdint>

namespace neox::kernels {

enum class Element : int32_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };
// Of packed weights.
enum class WeightElement : int32_t { kFloat32, kBFloat16, kInt8 };

// Keys and values of one head: row s is at data + s * token_stride, D elements long.
struct KeyValueSpan {
  const void* keys = nullptr;
  const void* values = nullptr;
  int64_t token_stride = 0;  // in elements
  int64_t length = 0;        // S of this span
};

// Attention of one head of one row: T new tokens look at the prefix, at the past, and causally at each other.
struct AttentionTask {
  Element element = Element::kFloat32;
  int64_t head_size = 0;  // D
  float scale = 1.0F;     // D^-0.5
  const void* queries = nullptr;
  int64_t query_stride = 0;  // elements between the queries of two tokens
  int64_t tokens = 0;        // T
  KeyValueSpan prefix;       // length P, seen by every query
  KeyValueSpan text;         // length past + T; query t sees its first past + t + 1
  // forward
  void* out = nullptr;  // row t at out + t * out_stride, D elements
  int64_t out_stride = 0;
  // backward
  const void* grad_out = nullptr;  // laid out as out
  void* grad_queries = nullptr;    // laid out as queries; null: not wanted (nor are grad_keys, grad_values)
  void* grad_keys = nullptr;       // gradients of the T new keys and values, at text's stride for the new tokens
  void* grad_values = nullptr;
  int64_t grad_stride = 0;
  float* grad_prefix_keys = nullptr;    // [P, D] float32, written
  float* grad_prefix_values = nullptr;  // [P, D] float32, written
};

// Elements of the packed form of weights [n, k].
inline constexpr int64_t linear_packed_size(WeightElement element, int64_t n, int64_t k) {
  const int64_t inner = element == WeightElement::kFloat32 ? k : (k + 1) / 2 * 2;
  return (n + 15) / 16 * 16 * inner;
}

enum class After : int32_t { kNothing, kGelu, kGeluTanh };

// Elements of a row that share a scale in its form of int16, and the largest integer in it. So many products with an
// int8 an int32 can hold. (With 512 elements up to 32767 as well; but a chunk's end costs, and 768 inputs would be two:
// 131 GFLOP/s in place of 149, a core of a Zen 3.)
inline constexpr int64_t kQuantizedChunk = 1024;
inline constexpr int kQuantizedLimit = 16383;
static_assert(kQuantizedChunk * kQuantizedLimit * 127 <= INT32_MAX);
inline constexpr int64_t quantized_chunks(int64_t k) { return (k + kQuantizedChunk - 1) / kQuantizedChunk; }

// Rows x[m, k] as integers: x[m, k] * factors[k] = out[m, k] * scales[m, k / kQuantizedChunk], rounded to the nearest.
// A chunk with NaN or infinity has the scale NaN.
struct QuantizeTask {
  Element element = Element::kFloat32;  // float32 or bfloat16
  int64_t k = 0;
  const void* x = nullptr;
  int64_t x_stride = 0;            // elements between rows of x
  const float* factors = nullptr;  // [k] or null: 1
  int16_t* out = nullptr;
  int64_t out_stride = 0;   // at least k; what is behind k becomes 0
  float* scales = nullptr;  // [m, quantized_chunks(k)]
};

// y[m, n] = after(x[m, k] W^T + bias) + residual. Everything but x and W is of `element`, float32 or bfloat16.
//
// W is of the same element: x too, though it may have to be float32 for bfloat16 (KernelTable::wide_rows), and an odd k
// needs one readable zero behind each of its rows in bfloat16. Or W is int8, W[n, k] = weights[n, k] * scales[n]: x is
// int16, of QuantizeTask, with the zero.
struct LinearTask {
  Element element = Element::kFloat32;
  WeightElement weight_element = WeightElement::kFloat32;
  After after = After::kNothing;
  int64_t m = 0, n = 0, k = 0;
  const void* x = nullptr;
  int64_t x_stride = 0;             // elements between rows of x
  const void* weights = nullptr;    // packed
  const void* bias = nullptr;       // [n] or null
  const void* residual = nullptr;   // [m, n] or null
  void* out = nullptr;              // [m, n]
  const float* scales = nullptr;    // [n] or null: of the products' sums
  const float* x_scales = nullptr;  // [m, quantized_chunks(k)], for int8
  int64_t weights_panel = 0;        // the first panel that `weights` has
};

// Packs W: element [n, k] is at weights + n * n_stride + k * k_stride.
struct LinearPackTask {
  WeightElement element = WeightElement::kFloat32;
  int64_t n = 0, k = 0;
  const void* weights = nullptr;
  int64_t n_stride = 0, k_stride = 0;
  void* out = nullptr;
};

// Of W [n, k] packed, panels of W^T [k, n] packed.
struct TransposeTask {
  WeightElement element = WeightElement::kFloat32;
  int64_t n = 0, k = 0;
  const void* weights = nullptr;
  void* out = nullptr;  // of the first panel that is asked for
};

// Activations of transformers' table (activations.py) that have no weights; gelu_10 is GELU cut off at 10, leaky_relu
// has the slope 0.01 below 0, laplace the mean 0.707107 and deviation 0.282095.
enum class Function : int32_t {
  kGelu,
  kGeluTanh,
  kGelu10,
  kQuickGelu,
  kRelu,
  kRelu2,
  kRelu6,
  kLeakyRelu,
  kSilu,
  kHardSwish,
  kMish,
  kSqrtSoftplus,
  kSigmoid,
  kTanh,
  kLaplace,
  kLinear,
};

// out = f(x), or dy * f'(x) where dy is given; `out` may be `dy`.
struct ActivationTask {
  Element element = Element::kFloat32;
  Function function = Function::kGelu;
  int64_t count = 0;
  const void* x = nullptr;
  const void* dy = nullptr;
  void* out = nullptr;
};

struct RotaryTask {
  Element element = Element::kFloat32;
  void* query = nullptr;  // head 0 of one token; head n is at + n * head_stride
  void* key = nullptr;
  int64_t head_stride = 0;
  int64_t heads = 0;
  int64_t half = 0;            // n/2 of the n rotary dimensions
  const float* cos = nullptr;  // [n/2] at the token's position
  const float* sin = nullptr;
  bool inverse = false;  // the transpose of the rotation: its gradient
};

struct LossResult {
  float loss = 0.0F;     // -log softmax(logits)[target]
  bool correct = false;  // the target has the largest logit
};

// Of a row of logits.
struct RowRange {
  float largest = 0.0F;
  float least = 0.0F;          // of those above -infinity
  int64_t first_largest = -1;  // the first that is `largest`
  bool finite = false;         // no NaN and no +infinity; else only this field means something
};

// What a product need not compute, since attention is causal. Tiles are left out as a whole: some of what is told here
// is computed all the same.
enum class Triangle : int32_t {
  kNone,
  kColumns,       // row i of C is wanted in its first diagonal + i columns
  kInner,         // row i of A is 0 from inner index diagonal + i on
  kInnerOfOther,  // inner index i of A is 0 from row diagonal + i on
};

// A small product of float32 matrices. A may have any strides (a transposed A costs nothing); rows of B and C are
// contiguous and readable (C: writable) up to a multiple of 16 columns.
struct MatmulTask {
  int64_t m = 0, n = 0, k = 0;
  const float* a = nullptr;
  int64_t a_row = 0, a_column = 0;  // strides
  const float* b = nullptr;
  int64_t b_row = 0;
  float* c = nullptr;
  int64_t c_row = 0;
  bool accumulate = false;  // C += A * B
  Triangle triangle = Triangle::kNone;
  int64_t diagonal = 0;
};

struct KernelTable {
  const char* name;
  // Outputs in a panel of packed weights: as many as a tile of the product has.
  int64_t linear_panel;
  // The products in bfloat16 have their rows x as float32 (exact values of bfloat16), all else as bfloat16.
  bool wide_rows;
  // Floats of scratch memory that a task needs.
  int64_t (*attention_forward_scratch)(const AttentionTask&);
  int64_t (*attention_backward_scratch)(const AttentionTask&);
  void (*attention_forward)(const AttentionTask&, float* scratch);
  void (*attention_backward)(const AttentionTask&, float* scratch);
  // The panels [first, last) of a product; panels are independent of each other.
  void (*linear)(const LinearTask&, int64_t first_panel, int64_t last_panel);
  void (*pack_linear)(const LinearPackTask&, int64_t first_panel, int64_t last_panel);
  // The panels [first, last) of W^T.
  void (*transpose_panels)(const TransposeTask&, int64_t first_panel, int64_t last_panel);
  // The `count` weights of an output as int8 in [-127, 127]; returns their scale. NaN or infinity among them makes the
  // scale NaN.
  float (*quantize)(const float* weights, int64_t count, int8_t* out);
  // The rows [first, last).
  void (*quantize_rows)(const QuantizeTask&, int64_t first_row, int64_t last_row);
  void (*activation)(const ActivationTask&);
  void (*rotary)(const RotaryTask&);
  // One row of V logits. With `scale` > 0 the row is overwritten by (softmax - onehot(target)) * scale.
  LossResult (*cross_entropy)(Element, void* logits, int64_t vocab, int64_t target, float scale);
  RowRange (*row_range)(const float* x, int64_t count);
  // Sum of exp((x - largest) * scale); the terms, those below e^-87.3 as 0, go to `out` unless it is null.
  double (*exp_sum)(const float* x, int64_t count, float largest, float scale, float* out);
  // The indices of elements >= least, in order; `out` has room for `count`. Returns how many.
  int64_t (*at_least)(const float* x, int64_t count, float least, int32_t* out);
  // C[M, N] = A[M, K] * B[K, N] in float32; exposed for its tests.
  void (*matmul)(const MatmulTask&);
};

inline int64_t linear_panels(int64_t n, int64_t panel) { return (n + panel - 1) / panel; }

// The best table that this processor runs, or the one that the environment variable NEOX_PREFIX_KERNELS names
// ("portable", "avx2", "avx512" or "avx512_bf16").
const KernelTable& kernels();
// By name; null when it is not built or this processor cannot run it.
const KernelTable* find_kernels(const char* name);

}  // namespace neox::kernels
