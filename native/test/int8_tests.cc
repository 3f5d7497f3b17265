// int8 weights and the rows that they are multiplied with: how they are rounded, and their products by every
// instruction set that this processor has.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/backends/cpu/panel_weights.h"
#include "core/kernels/kernels.h"
#include "tests.h"

namespace {

namespace kernels = neox::kernels;

// Products differ from double precision by rounding alone: those of the integers are exact.
constexpr double kFloat32Error = 1e-6;   // of the sum of the sizes of the terms
constexpr double kBFloat16Error = 5e-3;  // the result is rounded to 2^-9 of itself
constexpr double kRowError = 1e-4;       // rows are rounded to 2^-15 of their largest element

std::vector<float> draw(std::mt19937& random, int64_t count, float range) {
  std::uniform_real_distribution<float> distribution(-range, range);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = distribution(random);
  return values;
}

// Every weight within half a step of its scale, the largest exactly at its end, on every instruction set alike.
void test_rounding() {
  std::mt19937 random(5);
  for (const int64_t count : {1, 3, 16, 77, 768}) {
    for (const float range : {1e-3F, 1.0F, 1e20F}) {
      const auto weights = draw(random, count, range);
      float largest = 0;
      for (const float w : weights) largest = std::max(largest, std::abs(w));
      for (const auto* table : kernel_tables()) {
        std::vector<int8_t> q(weights.size());
        const float scale = table->quantize(weights.data(), count, q.data());
        const std::string name = std::string(table->name) + ": quantize " + std::to_string(count);
        check(std::abs(scale * 127.0F - largest) <= 1e-6F * largest, name + " has the scale of its largest weight");
        double worst = 0;
        int ends = 0;
        for (size_t i = 0; i < weights.size(); ++i) {
          worst = std::max(worst, std::abs(static_cast<double>(q[i]) * scale - weights[i]) / scale);
          ends += std::abs(q[i]) == 127 && std::abs(weights[i]) == largest ? 1 : 0;
          check(q[i] >= -127, name + " uses a range that is the same on both sides");
        }
        check(worst <= 0.50001, name + " is off by " + std::to_string(worst) + " steps");
        check(ends >= 1, name + ": the largest weight is at the end of the range");
      }
    }
  }
  for (const auto* table : kernel_tables()) {
    std::vector<int8_t> q(21, 1);
    std::vector<float> weights(21, 0.0F);
    check(table->quantize(weights.data(), 21, q.data()) == 0.0F && q[20] == 0, "zeros have the scale 0");
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      for (const size_t at : {size_t{0}, size_t{20}}) {
        weights.assign(21, 0.5F);
        weights[at] = bad;
        check(std::isnan(table->quantize(weights.data(), 21, q.data())), "a damaged weight makes its output NaN");
      }
    }
  }
}

// Every element within half a step of its chunk's scale, whatever it is multiplied with first, and on every instruction
// set alike.
template <typename T>
void test_rows(kernels::Element element) {
  constexpr int64_t rows = 3;
  std::mt19937 random(6);
  for (const int64_t k : {1, 2, 17, 1024, 1025, 2500}) {
    const int64_t stride = k + k % 2;
    const int64_t chunks = kernels::quantized_chunks(k);
    const auto drawn = draw(random, rows * k, 3.0F);
    const std::vector<T> x(drawn.begin(), drawn.end());
    const auto factors = draw(random, k, 1e-3F);
    for (const auto* table : kernel_tables()) {
      for (const bool scaled : {false, true}) {
        std::vector<int16_t> q(static_cast<size_t>(rows * stride), 1);
        std::vector<float> scales(static_cast<size_t>(rows * chunks));
        table->quantize_rows(
            {element, k, x.data(), k, scaled ? factors.data() : nullptr, q.data(), stride, scales.data()}, 0, rows);
        const std::string name = std::string(table->name) + ": rows of " + std::to_string(k) + " as int16";
        double worst = 0;
        std::vector<int> ends(scales.size(), 0);
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t i = 0; i < k; ++i) {
            const double factor = scaled ? factors[static_cast<size_t>(i)] : 1.0;
            const auto chunk = static_cast<size_t>(r * chunks + i / kernels::kQuantizedChunk);
            const int integer = q[static_cast<size_t>(r * stride + i)];
            const double value = static_cast<double>(static_cast<float>(x[static_cast<size_t>(r * k + i)])) * factor;
            worst = std::max(worst, std::abs(integer - value / scales[chunk]));
            ends[chunk] = std::max(ends[chunk], std::abs(integer));
          }
          if (k % 2 != 0) check(q[static_cast<size_t>(r * stride + k)] == 0, name + " end in a zero");
        }
        check(worst <= 0.51, name + " are off by " + std::to_string(worst) + " steps");
        check(std::all_of(ends.begin(), ends.end(), [](int end) { return end == kernels::kQuantizedLimit; }),
              name + " use the range");
      }
    }
  }
  // Zeros, and what no integer holds, in the second of two chunks: the first is as it would be.
  for (const auto* table : kernel_tables()) {
    for (const float bad : {0.0F, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      std::vector<T> x(1100, T(0.0F));
      x[3] = T(2.0F);
      x[1099] = T(bad);
      std::vector<int16_t> q(1100);
      std::array<float, 2> scales = {};
      table->quantize_rows({element, 1100, x.data(), 1100, nullptr, q.data(), 1100, scales.data()}, 0, 1);
      check(q[3] == kernels::kQuantizedLimit && q[0] == 0 &&
                std::abs(scales[0] * kernels::kQuantizedLimit - 2.0F) < 1e-6F,
            "a chunk has its own scale");
      check(bad == 0.0F ? scales[1] == 0.0F && q[1099] == 0 : std::isnan(scales[1]), "zeros and what is not finite");
    }
  }
}

struct Shape {
  int64_t m, n, k;
};

// Random shapes, on both sides of a panel, of a part of the inner dimension and of what counts as few rows.
std::vector<Shape> shapes() {
  std::vector<Shape> all = {{1, 1, 1}, {1, 64, 768}, {7, 64, 300}, {200, 17, 9}, {193, 80, 1025}, {3, 40, 2500}};
  std::mt19937 random(17);
  for (int i = 0; i < 24; ++i) {
    const auto up_to = [&](uint32_t limit) { return static_cast<int64_t>(1 + random() % limit); };
    all.push_back({up_to(i % 3 == 0 ? 220 : 14), up_to(200), up_to(i % 2 == 0 ? 700 : 60)});
  }
  return all;
}

template <typename T>
void test_products(kernels::Element element, double tolerance) {
  const auto read = [](T value) { return static_cast<float>(value); };
  std::mt19937 random(9);
  for (const auto& [m, n, k] : shapes()) {
    const int64_t stride = k + k % 2;  // a zero behind an odd row
    const int64_t chunks = kernels::quantized_chunks(k);
    const auto store = [](const std::vector<float>& from) { return std::vector<T>(from.begin(), from.end()); };
    // Integers at the ends of the range, all of one sign in the first row: the most that sums have to hold.
    std::vector<int16_t> x(static_cast<size_t>(m * stride), kernels::kQuantizedLimit);
    for (int64_t i = stride; i < m * stride; ++i)
      x[static_cast<size_t>(i)] = static_cast<int16_t>(static_cast<int>(random() % 32767) - kernels::kQuantizedLimit);
    if (k % 2 != 0) {
      for (int64_t i = 0; i < m; ++i) x[static_cast<size_t>(i * stride + k)] = 0;
    }
    auto x_scales = draw(random, m * chunks, 1.0F / kernels::kQuantizedLimit);
    const auto bias = store(draw(random, n, 1.0F));
    const auto residual = store(draw(random, m * n, 1.0F));
    auto scales = draw(random, n, 0.02F);
    std::vector<int8_t> q(static_cast<size_t>(n * k));
    for (int8_t& value : q) value = static_cast<int8_t>(static_cast<int>(random() % 255) - 127);
    std::fill_n(q.begin(), k, int8_t{127});
    std::vector<T> portable;
    for (const auto* table : kernel_tables()) {
      std::vector<int8_t> packed(static_cast<size_t>(kernels::linear_packed_size(kernels::WeightElement::kInt8, n, k)));
      const int64_t panels = kernels::linear_panels(n, table->linear_panel);
      table->pack_linear({kernels::WeightElement::kInt8, n, k, q.data(), k, 1, packed.data()}, 0, panels);
      std::vector<T> out(static_cast<size_t>(m * n));
      kernels::LinearTask task;
      task.element = element;
      task.weight_element = kernels::WeightElement::kInt8;
      task.m = m;
      task.n = n;
      task.k = k;
      task.x = x.data();
      task.x_stride = stride;
      task.weights = packed.data();
      task.bias = bias.data();
      task.residual = residual.data();
      task.out = out.data();
      task.scales = scales.data();
      task.x_scales = x_scales.data();
      table->linear(task, 0, panels);
      const std::string name = std::string(table->name) + ": int8 product " + std::to_string(m) + "x" +
                               std::to_string(n) + "x" + std::to_string(k);
      if (portable.empty()) portable = out;
      double worst = 0;
      double apart = 0;
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          const auto at = static_cast<size_t>(i * n + j);
          const double added = read(bias[static_cast<size_t>(j)]) + read(residual[at]);
          double sum = 0;
          double magnitude = 2.0;  // rounding is of the terms, and they may cancel
          for (int64_t l = 0; l < k; ++l) {
            const double term =
                static_cast<double>(x_scales[static_cast<size_t>(i * chunks + l / kernels::kQuantizedChunk)]) *
                x[static_cast<size_t>(i * stride + l)] * q[static_cast<size_t>(j * k + l)];
            sum += term;
            magnitude += std::abs(term * scales[static_cast<size_t>(j)]);
          }
          const double expected = sum * scales[static_cast<size_t>(j)] + added;
          worst = std::max(worst, std::abs(expected - read(out[at])) / magnitude);
          apart = std::max(apart, std::abs(static_cast<double>(read(out[at])) - read(portable[at])) / magnitude);
        }
      }
      check(worst < tolerance, name + " is off by " + std::to_string(worst));
      check(apart < 2 * tolerance, name + " is " + std::to_string(apart) + " from the portable one");
      // Each row alone, and the rows in two parts: not a bit may change.
      std::vector<T> parts(out.size());
      const auto part = [&](int64_t first, int64_t rows) {
        kernels::LinearTask some = task;
        some.m = rows;
        some.x = x.data() + first * stride;
        some.x_scales = x_scales.data() + first * chunks;
        some.residual = residual.data() + first * n;
        some.out = parts.data() + first * n;
        table->linear(some, 0, panels);
      };
      for (int64_t i = 0; i < m; ++i) part(i, 1);
      check(std::memcmp(parts.data(), out.data(), out.size() * sizeof(T)) == 0,
            name + ": a row depends on its neighbours");
      const int64_t half = std::max<int64_t>(1, m / 3);
      part(0, half);
      if (half < m) part(half, m - half);
      check(std::memcmp(parts.data(), out.data(), out.size() * sizeof(T)) == 0, name + ": a batch depends on its size");
    }
  }
}

// Forward, backward with a packed copy and backward without one are products with the same matrix.
void test_backward() {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    for (const auto& [n, k] : {std::array<int64_t, 2>{3, 5}, {130, 47}, {700, 96}}) {
      const at::Tensor weight = at::randn({n, k});
      const auto weights = neox::PanelWeights::quantize(weight, dtype);
      // The matrix as forward() sees it: in float32, whatever the other dtype would round.
      const auto exact = neox::PanelWeights::quantize(weight, at::kFloat);
      const at::Tensor dense =
          exact->multiply(at::eye(k), std::nullopt, neox::Epilogue::kNothing, nullptr).t().contiguous();  // [n, k]
      check((dense - weight).abs().max().item<float>() <= weight.abs().max().item<float>() / 127.0F * 0.51F,
            "int8 weights are near what they were made of");
      const at::Tensor dy = at::randn({9, n}).to(dtype);
      const at::Tensor expected = at::matmul(dy.to(at::kFloat), dense);
      const double size = expected.abs().max().item<double>();
      const double tolerance = dtype == at::kFloat ? kRowError : 2 * kBFloat16Error;
      const auto off = [&](const at::Tensor& got) {
        return (got.to(at::kFloat) - expected).abs().max().item<double>() / size;
      };
      const at::Tensor packed = weights->transposed()->multiply(dy, std::nullopt, neox::Epilogue::kNothing, nullptr);
      check(packed.scalar_type() == dtype && off(packed) < tolerance,
            "the packed gradient is off by " + std::to_string(off(packed)));
      const at::Tensor slow = weights->multiply_transposed(dy);
      check(slow.scalar_type() == dtype && off(slow) < tolerance,
            "the gradient without a copy is off by " + std::to_string(off(slow)));
    }
  }
}

}  // namespace

void test_int8() {
  test_rounding();
  test_rows<float>(kernels::Element::kFloat32);
  test_rows<c10::BFloat16>(kernels::Element::kBFloat16);
  test_products<float>(kernels::Element::kFloat32, kFloat32Error);
  test_products<c10::BFloat16>(kernels::Element::kBFloat16, kBFloat16Error);
  test_backward();
}
