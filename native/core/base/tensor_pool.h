// Memory for the large tensors of a pass through the model.
//
// A training step makes and drops hundreds of tensors of a few sizes, and the next batch has other sizes. malloc's
// heaps break up under that: the process takes half as much again as is in use, more from hour to hour, and pages that
// went back to the system are faulted in anew. The pool keeps blocks for tensors of about their size, on huge pages,
// and never holds more than was once in use at a time, so that what a training takes can be said before it starts.
#pragma once

#include <c10/core/Allocator.h>

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace neox {

class TensorPool {
 public:
  static std::shared_ptr<TensorPool> create();
  ~TensorPool();
  TensorPool(const TensorPool&) = delete;
  TensorPool& operator=(const TensorPool&) = delete;

  // While one lives, large CPU tensors that this thread makes come from the pool. They may outlive it, and the pool.
  class Scope {
   public:
    explicit Scope(const std::shared_ptr<TensorPool>& pool);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    const std::shared_ptr<TensorPool>* outer_;
  };

  // Gives back what is not in use, and forgets the peak. May be called from any thread.
  void trim();
  // Bytes that it holds, in use or not.
  size_t held() const;
  // Most bytes in use at a time since the last trim().
  size_t peak() const;

 private:
  struct Block {
    char* data;
    size_t size;
  };
  struct Leases;
  class Allocator;

  TensorPool() = default;
  Block take(size_t bytes);
  void give_back(Block block);

  static thread_local const std::shared_ptr<TensorPool>* current_;

  mutable std::mutex mutex_;
  std::vector<Block> free_;  // the one that was freed last is the last
  size_t free_bytes_ = 0;
  size_t used_bytes_ = 0;
  size_t peak_ = 0;
};

}  // namespace neox
