// Tests of the core without Node, run by `node scripts/build.mjs --tests`. What can be seen from JavaScript is tested
// there.
#include <ATen/core/Tensor.h>

#include <array>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/worker_thread.h"
#include "core/checkpoint/joined_tensor.h"
#include "core/checkpoint/mapped_file.h"
#include "core/kernels/kernels.h"
#include "tests.h"

namespace {
int failures = 0;
}

void check(bool condition, const std::string& what) {
  if (condition) return;
  ++failures;
  std::printf("  failed: %s\n", what.c_str());
}

namespace {

std::vector<float> random_floats(size_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> distribution(-1.0F, 1.0F);
  std::vector<float> values(count);
  for (float& value : values) value = distribution(generator);
  return values;
}

// Every instruction set against sums in double precision, at sizes on both sides of the vector widths.
void test_matmul() {
  for (const auto* found : kernel_tables()) {
    const auto& table = *found;
    for (const int64_t m : {1, 3, 8}) {
      for (const int64_t n : {1, 15, 16, 33}) {
        for (const int64_t k : {1, 7, 64}) {
          const int64_t padded = (n + 15) / 16 * 16;
          const auto a = random_floats(static_cast<size_t>(m * k), 1);
          const auto b = random_floats(static_cast<size_t>(k * padded), 2);
          std::vector<float> c(static_cast<size_t>(m * padded), 0.5F);
          table.matmul({m, n, k, a.data(), k, 1, b.data(), padded, c.data(), padded, true});
          double worst = 0;
          for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j < n; ++j) {
              double expected = 0.5;
              for (int64_t l = 0; l < k; ++l) {
                expected +=
                    static_cast<double>(a[static_cast<size_t>(i * k + l)]) * b[static_cast<size_t>(l * padded + j)];
              }
              worst = std::max(worst, std::abs(expected - c[static_cast<size_t>(i * padded + j)]));
            }
          }
          check(worst < 1e-5, std::string(table.name) + ": matmul " + std::to_string(m) + "x" + std::to_string(n) +
                                  "x" + std::to_string(k) + " is off by " + std::to_string(worst));
        }
      }
    }
  }
}

// What a triangle leaves out changes nothing that is wanted, to the bit.
void test_triangles() {
  using neox::kernels::MatmulTask;
  using neox::kernels::Triangle;
  const int64_t m = 20, n = 37, k = 45, padded = 48;
  const auto b = random_floats(static_cast<size_t>(k * padded), 2);
  for (const auto* found : kernel_tables()) {
    for (const int64_t diagonal : {1, 2, 9, 30, 100}) {
      for (const auto triangle : {Triangle::kColumns, Triangle::kInner, Triangle::kInnerOfOther}) {
        // The strides of kInnerOfOther are those of A transposed.
        const bool other = triangle == Triangle::kInnerOfOther;
        auto a = random_floats(static_cast<size_t>(m * k), 1);
        for (int64_t i = 0; i < m; ++i) {
          for (int64_t j = 0; j < k; ++j) {
            if (triangle == Triangle::kInner && j >= diagonal + i) a[static_cast<size_t>(i * k + j)] = 0;
            if (other && i >= diagonal + j) a[static_cast<size_t>(j * m + i)] = 0;
          }
        }
        for (const bool accumulate : {false, true}) {
          std::vector<float> some(static_cast<size_t>(m * padded), 0.5F);
          std::vector<float> all = some;
          MatmulTask task{m,        n,      k,          a.data(), other ? 1 : k, other ? m : 1,
                          b.data(), padded, all.data(), padded,   accumulate};
          found->matmul(task);
          task.c = some.data();
          task.triangle = triangle;
          task.diagonal = diagonal;
          found->matmul(task);
          bool same = true;
          bool left_out = false;
          for (int64_t i = 0; i < m; ++i) {
            const int64_t wanted = triangle == Triangle::kColumns ? std::min(n, diagonal + i) : n;
            for (int64_t j = 0; j < n; ++j) {
              const auto at = static_cast<size_t>(i * padded + j);
              if (j < wanted) same = same && some[at] == all[at];
              left_out = left_out || (j >= wanted && some[at] == 0.5F);
            }
          }
          const std::string what = std::string(found->name) + ": triangle " +
                                   std::to_string(static_cast<int>(triangle)) + " at " + std::to_string(diagonal);
          check(same, what);
          if (triangle == Triangle::kColumns && diagonal < 3) check(left_out, what + " leaves something out");
        }
      }
    }
  }
}

uint16_t to_bfloat16(float value) { return c10::BFloat16(value).x; }

float from_bfloat16(uint16_t bits) { return static_cast<float>(c10::BFloat16(bits, c10::BFloat16::from_bits())); }

// Products over packed weights, both dtypes, W as it is and transposed, with bias and residual, against double
// precision; and each row alone against the same row among others, bit by bit.
void test_linear() {
  namespace kernels = neox::kernels;
  for (const auto* found : kernel_tables()) {
    const auto& table = *found;
    for (const auto [m, n, k] :
         {std::array<int64_t, 3>{1, 1, 1}, {2, 17, 9}, {5, 64, 33}, {7, 65, 64}, {13, 200, 50}, {130, 112, 401}}) {
      for (const bool bfloat16 : {false, true}) {
        for (const bool transposed : {false, true}) {
          const auto element = bfloat16 ? kernels::Element::kBFloat16 : kernels::Element::kFloat32;
          const auto weights = bfloat16 ? kernels::WeightElement::kBFloat16 : kernels::WeightElement::kFloat32;
          const int64_t stride = k + k % 2;  // a zero behind an odd row
          const auto store = [&](const std::vector<float>& from) {
            std::vector<char> bytes(from.size() * (bfloat16 ? 2 : 4));
            for (size_t i = 0; i < from.size(); ++i) {
              const uint16_t half = to_bfloat16(from[i]);
              std::memcpy(bytes.data() + i * (bfloat16 ? 2 : 4),
                          bfloat16 ? static_cast<const void*>(&half) : static_cast<const void*>(&from[i]),
                          bfloat16 ? 2 : 4);
            }
            return bytes;
          };
          const auto rounded = [&](float value) { return bfloat16 ? from_bfloat16(to_bfloat16(value)) : value; };
          auto x = random_floats(static_cast<size_t>(m * stride), 11);
          if (k % 2 != 0) {
            for (int64_t i = 0; i < m; ++i) x[static_cast<size_t>(i * stride + k)] = 0.0F;
          }
          const auto w = random_floats(static_cast<size_t>(n * k), 12);
          const auto bias = random_floats(static_cast<size_t>(n), 13);
          const auto residual = random_floats(static_cast<size_t>(m * n), 14);
          // Rows of x are float32 where the table wants them wide.
          const int64_t x_size = bfloat16 && !table.wide_rows ? 2 : 4;
          auto x_bytes = store(x);
          if (x_size == 4) {
            x_bytes.resize(x.size() * 4);
            for (size_t i = 0; i < x.size(); ++i) {
              const float value = rounded(x[i]);
              std::memcpy(x_bytes.data() + i * 4, &value, 4);
            }
          }
          const auto w_bytes = store(w);
          const auto bias_bytes = store(bias);
          const auto residual_bytes = store(residual);
          std::vector<char> packed(static_cast<size_t>(kernels::linear_packed_size(weights, n, k)) *
                                   (bfloat16 ? 2 : 4));
          table.pack_linear({weights, n, k, w_bytes.data(), transposed ? 1 : k, transposed ? n : 1, packed.data()}, 0,
                            kernels::linear_panels(n, table.linear_panel));
          std::vector<char> out(static_cast<size_t>(m * n) * (bfloat16 ? 2 : 4));
          kernels::LinearTask task;
          task.element = element;
          task.weight_element = weights;
          task.m = m;
          task.n = n;
          task.k = k;
          task.x = x_bytes.data();
          task.x_stride = stride;
          task.weights = packed.data();
          task.bias = bias_bytes.data();
          task.residual = residual_bytes.data();
          task.out = out.data();
          table.linear(task, 0, kernels::linear_panels(n, table.linear_panel));
          double worst = 0;
          for (int64_t i = 0; i < m; ++i) {
            for (int64_t j = 0; j < n; ++j) {
              double expected =
                  rounded(bias[static_cast<size_t>(j)]) + rounded(residual[static_cast<size_t>(i * n + j)]);
              double magnitude = 1.0;  // rounding is of the terms, and they may cancel
              for (int64_t l = 0; l < k; ++l) {
                const auto at = static_cast<size_t>(transposed ? l * n + j : j * k + l);
                const double term =
                    static_cast<double>(rounded(x[static_cast<size_t>(i * stride + l)])) * rounded(w[at]);
                expected += term;
                magnitude += std::abs(term);
              }
              float got = 0;
              uint16_t half = 0;
              std::memcpy(bfloat16 ? static_cast<void*>(&half) : static_cast<void*>(&got),
                          out.data() + (i * n + j) * (bfloat16 ? 2 : 4), bfloat16 ? 2 : 4);
              if (bfloat16) got = from_bfloat16(half);
              worst = std::max(worst, std::abs(expected - got) / magnitude);
            }
          }
          const std::string name = std::string(table.name) + (bfloat16 ? " bfloat16" : " float32") + ": linear " +
                                   std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k);
          check(worst < (bfloat16 ? 5e-3 : 1e-6), name + " is off by " + std::to_string(worst));
          const size_t row_bytes = static_cast<size_t>(n) * (bfloat16 ? 2 : 4);
          std::vector<char> alone(row_bytes);
          for (int64_t i = 0; i < m; ++i) {
            kernels::LinearTask single = task;
            single.m = 1;
            single.x = x_bytes.data() + i * stride * x_size;
            single.residual = residual_bytes.data() + static_cast<size_t>(i) * row_bytes;
            single.out = alone.data();
            table.linear(single, 0, kernels::linear_panels(n, table.linear_panel));
            check(std::memcmp(alone.data(), out.data() + static_cast<size_t>(i) * row_bytes, row_bytes) == 0,
                  name + ": row " + std::to_string(i) + " depends on its neighbours");
          }
        }
      }
    }
  }
}

// Values against the formulas in double precision, derivatives against central differences of them.
void test_activations() {
  namespace kernels = neox::kernels;
  const auto formula = [](kernels::Function function, double x) {
    switch (function) {
      case kernels::Function::kGelu: return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
      case kernels::Function::kGeluTanh:
        return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
      case kernels::Function::kQuickGelu: return x / (1.0 + std::exp(-1.702 * x));
      case kernels::Function::kRelu: return x > 0.0 ? x : 0.0;
      case kernels::Function::kSilu: return x / (1.0 + std::exp(-x));
      case kernels::Function::kGelu10: return std::min(0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0))), 10.0);
      case kernels::Function::kRelu2: return x > 0.0 ? x * x : 0.0;
      case kernels::Function::kRelu6: return std::clamp(x, 0.0, 6.0);
      case kernels::Function::kLeakyRelu: return x > 0.0 ? x : 0.01 * x;
      case kernels::Function::kHardSwish: return x * std::clamp(x + 3.0, 0.0, 6.0) / 6.0;
      case kernels::Function::kMish: return x * std::tanh(x > 30.0 ? x : std::log1p(std::exp(x)));
      case kernels::Function::kSqrtSoftplus: return std::sqrt(x > 30.0 ? x : std::log1p(std::exp(x)));
      case kernels::Function::kSigmoid: return 1.0 / (1.0 + std::exp(-x));
      case kernels::Function::kTanh: return std::tanh(x);
      case kernels::Function::kLaplace: return 0.5 * (1.0 + std::erf((x - 0.707107) / (0.282095 * std::sqrt(2.0))));
      case kernels::Function::kLinear: return x;
    }
    return 0.0;
  };
  for (const auto* found : kernel_tables()) {
    const auto& table = *found;
    for (int f = 0; f <= static_cast<int>(kernels::Function::kLinear); ++f) {
      const auto function = static_cast<kernels::Function>(f);
      std::vector<float> x;
      for (int i = -1001; i <= 1001; i += 2)
        x.push_back(static_cast<float>(i) / 100.0F);  // an odd count: there is a tail
      x.push_back(-100.0F);
      x.push_back(100.0F);
      const std::vector<float> ones(x.size(), 1.0F);
      std::vector<float> value(x.size());
      std::vector<float> slope(x.size());
      const auto count = static_cast<int64_t>(x.size());
      table.activation({kernels::Element::kFloat32, function, count, x.data(), nullptr, value.data()});
      table.activation({kernels::Element::kFloat32, function, count, x.data(), ones.data(), slope.data()});
      double worst_value = 0;
      double worst_slope = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        const double at = x[i];
        const double step = 1e-5;
        const double expected = formula(function, at);
        worst_value =
            std::max(worst_value, std::abs(expected - value[i]) / std::max({1.0, std::abs(at), std::abs(expected)}));
        const double difference = (formula(function, at + step) - formula(function, at - step)) / (2.0 * step);
        worst_slope = std::max(worst_slope, std::abs(difference - slope[i]));
      }
      const std::string name = std::string(table.name) + ": activation " + std::to_string(f);
      check(worst_value < 1e-6, name + " is off by " + std::to_string(worst_value));
      check(worst_slope < 3e-6, name + "'s derivative is off by " + std::to_string(worst_slope));
    }
  }
}

// Loss and gradient of one row against double precision; the gradient sums to zero.
void test_cross_entropy() {
  for (const auto* found : kernel_tables()) {
    const auto& table = *found;
    for (const int64_t vocab : {2, 17, 1000}) {
      const auto logits = random_floats(static_cast<size_t>(vocab), 3);
      const int64_t target = vocab / 2;
      double sum = 0;
      for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
      const double expected = std::log(sum) - logits[static_cast<size_t>(target)];
      auto row = logits;
      const auto result = table.cross_entropy(neox::kernels::Element::kFloat32, row.data(), vocab, target, 2.0F);
      check(std::abs(result.loss - expected) < 1e-5, std::string(table.name) + ": loss over " + std::to_string(vocab));
      double worst = 0;
      for (size_t i = 0; i < row.size(); ++i) {
        const double gradient =
            2.0 * (std::exp(static_cast<double>(logits[i])) / sum - (static_cast<int64_t>(i) == target ? 1.0 : 0.0));
        worst = std::max(worst, std::abs(gradient - row[i]));
      }
      check(worst < 1e-5, std::string(table.name) + ": gradient over " + std::to_string(vocab) + " is off by " +
                              std::to_string(worst));
    }
  }
}

void test_worker_thread() {
  std::vector<int> order;
  std::atomic<bool> started{false};
  {
    const auto thread = neox::WorkerThread::create([&] { started = true; });
    for (int i = 0; i < 100; ++i) thread->post([&order, i] { order.push_back(i); });
    std::atomic<bool> done{false};
    thread->post([&] { done = true; });
    while (!done) std::this_thread::yield();
  }
  check(started, "the first function of a worker thread runs");
  bool sorted = order.size() == 100;
  for (size_t i = 0; i < order.size(); ++i) sorted = sorted && order[i] == static_cast<int>(i);
  check(sorted, "jobs run one after the other in the order they were posted");
}

void test_mapped_tensors(const std::string& path) {
  const auto values = random_floats(6, 4);
  std::ofstream(path, std::ios::binary).write("12345678", 8).write(reinterpret_cast<const char*>(values.data()), 24);
  neox::TensorEntry entry;
  entry.name = "weight";
  entry.file = path;
  entry.shape = {2, 3};
  entry.offset = 8;
  entry.byte_length = 24;
  const at::Tensor tensor = neox::map_tensor(entry);
  check(tensor.sizes() == at::IntArrayRef({2, 3}) && tensor.data_ptr<float>()[5] == values[5],
        "a tensor is where its entry says");

  const auto is_refused = [&](const char* what, const std::function<void(neox::TensorEntry&)>& change) {
    neox::TensorEntry bad = entry;
    change(bad);
    try {
      neox::map_tensor(bad);
      check(false, std::string(what) + " is refused");
    } catch (const neox::CoreError& error) {
      check(error.code() == "NEOX_BAD_CHECKPOINT", std::string(what) + " has the code of a bad checkpoint");
    }
  };
  is_refused("a tensor that ends behind its file", [](auto& bad) { bad.offset = 12; });
  is_refused("a shape with more elements than bytes", [](auto& bad) { bad.shape = {3, 3}; });
  is_refused("a shape whose size overflows", [](auto& bad) { bad.shape = {int64_t{1} << 40, int64_t{1} << 40}; });
  is_refused("an offset whose end overflows", [](auto& bad) { bad.offset = ~uint64_t{0} - 4; });
  is_refused("a negative size", [](auto& bad) { bad.shape = {-2, -3}; });

  // Joined: two pieces of two rows each, and then pieces that claim more than any memory holds.
  neox::TensorEntry joined;
  joined.name = "joined";
  joined.joined = true;
  joined.shape = {4, 3};
  joined.pieces = {entry, entry};
  const at::Tensor whole = neox::read_tensor(joined, at::kFloat);
  check(whole.sizes() == at::IntArrayRef({4, 3}) && whole.data_ptr<float>()[11] == values[5],
        "pieces are put together along their axis");
  const auto join_is_refused = [&](const char* what, int64_t rows, int64_t claimed) {
    joined.shape = {claimed, 3};
    for (auto& piece : joined.pieces) piece.shape = {rows, 3};
    try {
      neox::read_tensor(joined, at::kFloat);
      check(false, std::string(what) + " are refused");
    } catch (const neox::CoreError& error) {
      check(error.code() == "NEOX_BAD_CHECKPOINT", std::string(what) + " have the code of a bad checkpoint");
    } catch (const std::exception& error) {
      check(false, std::string(what) + " are refused before there is memory for them: " + error.what());
    }
  };
  join_is_refused("pieces that are larger than their files", int64_t{1} << 50, int64_t{1} << 51);
  join_is_refused("pieces of another size than the whole", int64_t{1} << 50, 4);
  join_is_refused("pieces whose size overflows", int64_t{1} << 61, int64_t{1} << 62);
  std::remove(path.c_str());
}

}  // namespace

int main(int, char** argv) {
  test_matmul();
  test_triangles();
  test_linear();
  test_backends();
  test_int8();
  test_activations();
  test_cross_entropy();
  test_worker_thread();
  test_tensor_pool();
  test_mapped_tensors(std::string(argv[0]) + ".tmp");
  test_generation();
  test_transposed();
  std::printf("core tests: %s\n", failures == 0 ? "ok" : "FAILED");
  return failures == 0 ? 0 : 1;
}
