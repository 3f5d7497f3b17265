// The pool that a training step's tensors live in: what it takes again, what it holds at most, and who may outlive
// whom.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>

#include <cstdint>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "core/base/tensor_pool.h"
#include "tests.h"

namespace {

using neox::TensorPool;

at::Tensor bytes(int64_t count) { return at::empty({count}, at::kByte); }

constexpr int64_t kMega = int64_t{1} << 20;

}  // namespace

void test_tensor_pool() {
  const auto pool = TensorPool::create();
  const at::Tensor outside = bytes(8 * kMega);
  check(pool->held() == 0, "a tensor made outside of a scope is not the pool's");
  {
    const TensorPool::Scope scope(pool);
    const at::Tensor small = bytes(1000);
    check(pool->held() == 0, "a small tensor is not the pool's");
    at::Tensor large = bytes(8 * kMega);
    check(pool->held() == 8 * kMega && pool->peak() == 8 * kMega, "a large tensor is the pool's");
    const void* place = large.data_ptr();
    large = at::Tensor();
    check(pool->held() == 8 * kMega, "memory is kept");
    large = bytes(8 * kMega - 5000);
    check(large.data_ptr() == place, "memory is used again for a tensor of about its size");
    large = at::Tensor();
    large = bytes(2 * kMega);
    check(large.data_ptr() != place && pool->held() <= 8 * kMega, "but not for a much smaller one, and the peak stays");
    std::thread([&] { bytes(8 * kMega); }).join();
    check(pool->peak() == 8 * kMega, "other threads have their own memory");
  }
  pool->trim();
  check(pool->held() == 0, "what is not in use is given back");

  // Whatever is made and dropped: no more is held than was once in use at a time, and no two tensors overlap.
  {
    const TensorPool::Scope scope(pool);
    std::mt19937 random(1);
    std::vector<at::Tensor> tensors;
    bool bounded = true;
    bool own = true;
    for (int step = 0; step < 2000; ++step) {
      if (tensors.size() > 12 || (!tensors.empty() && random() % 2 == 0)) {
        const size_t which = random() % tensors.size();
        const at::Tensor& tensor = tensors[which];
        const auto* data = tensor.const_data_ptr<uint8_t>();
        own = own && data[0] == data[tensor.numel() - 1] && data[0] == static_cast<uint8_t>(tensor.numel());
        tensors.erase(tensors.begin() + static_cast<int64_t>(which));
      } else {
        const int64_t size = 100000 + static_cast<int64_t>(random() % (6 * kMega));
        at::Tensor tensor = bytes(size);
        auto* data = tensor.mutable_data_ptr<uint8_t>();
        data[0] = data[size - 1] = static_cast<uint8_t>(size);
        tensors.push_back(tensor);
      }
      bounded = bounded && pool->held() <= pool->peak();
    }
    check(bounded, "a pool never holds more than was in use at a time");
    check(own, "tensors of a pool do not overlap");
  }

  at::Tensor survivor;
  {
    const auto gone = TensorPool::create();
    const TensorPool::Scope scope(gone);
    survivor = at::ones({kMega}, at::kByte);
  }
  check(survivor.sum().item<int64_t>() == kMega, "a tensor may outlive its pool");
}
