// What this machine can do at best, measured with libtorch and with the packed products of the core: the answers of one
// peer of the benchmark (bench/protocol.mts), here in C++ because JavaScript has no access to a single product.
//
//   node scripts/build.mjs --native --target neox_limits
#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/sum.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <iostream>
#include <memory>
#include <regex>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/backends/registry.h"

namespace {

// Of the square matrices: the large ones where they take no more than a moment, which without instructions for the
// dtype they do.
constexpr int64_t kSmall = 512;
constexpr int64_t kLarge = 2048;
constexpr double kMoment = 0.02;                 // seconds for a small product
constexpr int64_t kElements = int64_t{1} << 26;  // 256 MB of float32, more than any cache
constexpr int kRepeats = 3;

struct Work {
  double seconds = 0.0;
  double amount = 0.0;
};

// The shortest of a few runs.
Work best_of(double amount, const std::function<void()>& action) {
  action();
  double best = 1e30;
  for (int i = 0; i < kRepeats; ++i) {
    const auto started = std::chrono::steady_clock::now();
    action();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count());
  }
  return {best, amount};
}

using Product = std::function<void(const at::Tensor& a)>;

// `best`, or a product by `prepare` that does more in a second.
Work better_of(Work best, at::ScalarType dtype, const std::function<Product(const at::Tensor& b)>& prepare) {
  for (const int64_t size : {kSmall, kLarge}) {
    const at::Tensor a = at::randn({size, size}).to(dtype);
    const Product product = prepare(at::randn({size, size}).to(dtype));
    const double n = static_cast<double>(size);
    const Work work = best_of(2.0 * n * n * n, [&] { product(a); });
    if (work.amount / work.seconds > best.amount / best.seconds) best = work;
    if (size == kSmall && work.seconds > kMoment) break;
  }
  return best;
}

Product multiply(std::shared_ptr<const neox::FrozenWeights> weights) {
  return [weights = std::move(weights)](const at::Tensor& a) {
    weights->multiply(a, std::nullopt, neox::Epilogue::kNothing, nullptr);
  };
}

constexpr Work kNothing{1e30, 1.0};

Work best_product(at::ScalarType dtype) {
  Work best =
      better_of(kNothing, dtype, [](const at::Tensor& b) { return [b](const at::Tensor& a) { at::mm(a, b); }; });
  for (const neox::Backend* const backend : neox::backends()) {
    if (!backend->packs() || !backend->supports(dtype, at::kCPU)) continue;
    best = better_of(best, dtype, [backend](const at::Tensor& b) { return multiply(backend->pack(b)); });
  }
  return best;
}

Work measure(const std::string& what) {
  if (what == "float32") return best_product(at::kFloat);
  if (what == "bfloat16") return best_product(at::kBFloat16);
  if (what == "int8") {
    const neox::Choice choice = neox::choose_backend("auto", {at::kFloat, true}, at::kCPU, true);
    const at::ScalarType rows = choice.precision.activations;
    return better_of(kNothing, rows, [&](const at::Tensor& b) { return multiply(choice.backend->quantize(b, rows)); });
  }
  constexpr double kBytes = 4.0 * kElements;
  const at::Tensor source = at::ones({kElements});
  if (what == "read") return best_of(kBytes, [&] { at::sum(source); });
  at::Tensor target = at::empty_like(source);
  if (what == "copy") return best_of(kBytes, [&] { target.copy_(source); });
  throw std::runtime_error("there is no limit '" + what + "'");
}

std::string field(const std::string& line, const char* pattern) {
  std::smatch match;
  return std::regex_search(line, match, std::regex(pattern)) ? match[1].str() : "";
}

}  // namespace

int main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    const std::string id = field(line, R"re("id":(\d+))re");
    try {
      if (field(line, R"re("operation":"(\w+)")re") != "limit")
        throw std::runtime_error("this peer knows limits alone");
      at::set_num_threads(std::stoi(field(line, R"re("threads":(\d+))re")));
      const Work work = measure(field(line, R"re("what":"(\w+)")re"));
      std::printf(R"({"id":%s,"answer":{"seconds":%.9g,"amount":%.17g}})", id.c_str(), work.seconds, work.amount);
    } catch (const std::exception& error) {
      const std::string text = std::regex_replace(std::string(error.what()), std::regex(R"(["\\\x00-\x1f])"), " ");
      std::printf(R"({"id":%s,"error":"%s"})", id.c_str(), text.c_str());
    }
    std::printf("\n");
    std::fflush(stdout);
  }
}
