// Tests of the core without Node, run by `node scripts/build.mjs --tests`. What can be seen from JavaScript is tested there.
#include <ATen/core/Tensor.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "core/checkpoint/mapped_file.h"
#include "core/error.h"
#include "core/kernels/kernels.h"
#include "core/worker_thread.h"

namespace {

int failures = 0;

void check(bool condition, const std::string& what) {
  if (condition) return;
  ++failures;
  std::printf("  failed: %s\n", what.c_str());
}

std::vector<float> random_floats(size_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> distribution(-1.0F, 1.0F);
  std::vector<float> values(count);
  for (float& value : values) value = distribution(generator);
  return values;
}

void for_each_kernel_table(const std::function<void(const neox::kernels::KernelTable&)>& body) {
  int found = 0;
  for (const char* name : {"portable", "avx2", "avx512"}) {
    if (const auto* table = neox::kernels::find_kernels(name)) {
      ++found;
      body(*table);
    }
  }
  check(found > 0, "the portable kernels are always there");
}

// Every instruction set against sums in double precision, at sizes on both sides of the vector widths.
void test_matmul() {
  for_each_kernel_table([](const neox::kernels::KernelTable& table) {
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
  });
}

// Loss and gradient of one row against double precision; the gradient sums to zero.
void test_cross_entropy() {
  for_each_kernel_table([](const neox::kernels::KernelTable& table) {
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
  });
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
  std::remove(path.c_str());
}

}  // namespace

int main(int, char** argv) {
  test_matmul();
  test_cross_entropy();
  test_worker_thread();
  test_mapped_tensors(std::string(argv[0]) + ".tmp");
  std::printf("core tests: %s\n", failures == 0 ? "ok" : "FAILED");
  return failures == 0 ? 0 : 1;
}
