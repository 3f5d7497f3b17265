#include "core/base/tensor_pool.h"

#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <new>
#include <unordered_map>
#include <utility>

namespace neox {
namespace {

constexpr size_t kSmallest = size_t{64} << 10;  // of what the pool is asked for; malloc does well below
constexpr size_t kHuge = size_t{2} << 20;

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

char* map(size_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<char*>(memory);
}

// Null when there is no memory.
char* map_block(size_t bytes) {
  if (bytes < 2 * kHuge) return map(bytes);
  // A block of huge pages begins at a multiple of their size.
  char* all = map(bytes + kHuge);
  if (all == nullptr) return nullptr;
  const size_t before = round_up(reinterpret_cast<size_t>(all), kHuge) - reinterpret_cast<size_t>(all);
  if (before > 0) ::munmap(all, before);
  if (before < kHuge) ::munmap(all + before + bytes, kHuge - before);
#if defined(MADV_HUGEPAGE)
  ::madvise(all + before, bytes, MADV_HUGEPAGE);
#endif
  return all + before;
}

}  // namespace

// Whose a block in use is, by its address: that is all that libtorch hands back.
struct TensorPool::Leases {
  std::mutex mutex;
  std::unordered_map<void*, std::pair<std::shared_ptr<TensorPool>, Block>> by_address;

  static Leases& get() {
    static auto* leases = new Leases();  // for good: tensors may be freed at the very end
    return *leases;
  }

  void add(const std::shared_ptr<TensorPool>& pool, Block block) {
    const std::scoped_lock lock(mutex);
    by_address.emplace(block.data, std::pair(pool, block));
  }

  // Whether it was the address of a block.
  bool end(void* address) {
    std::unique_lock lock(mutex);
    auto node = by_address.extract(address);
    lock.unlock();
    if (!node) return false;
    node.mapped().first->give_back(node.mapped().second);
    return true;
  }
};

// Stands before libtorch's own allocator for good: which of the two a tensor comes from is decided by the thread.
class TensorPool::Allocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    const auto* pool = current_;
    if (pool == nullptr || bytes < kSmallest) return base()->allocate(bytes);
    const Block block = (*pool)->take(bytes);
    Leases::get().add(*pool, block);
    return {block.data, block.data, free_any, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return free_any; }
  void copy_data(void* to, const void* from, size_t bytes) const override { base()->copy_data(to, from, bytes); }

  static c10::Allocator* base() {
    static c10::Allocator* const own = c10::GetCPUAllocator();
    return own;
  }

 private:
  static void free_any(void* address) {
    if (address != nullptr && !Leases::get().end(address)) base()->raw_deleter()(address);
  }
};

thread_local const std::shared_ptr<TensorPool>* TensorPool::current_ = nullptr;

std::shared_ptr<TensorPool> TensorPool::create() {
  static std::once_flag once;
  std::call_once(once, [] {
    Allocator::base();
    c10::SetCPUAllocator(new Allocator());
  });
  return std::shared_ptr<TensorPool>(new TensorPool());
}

TensorPool::~TensorPool() { trim(); }

TensorPool::Scope::Scope(const std::shared_ptr<TensorPool>& pool) : outer_(current_) { current_ = &pool; }

TensorPool::Scope::~Scope() { current_ = outer_; }

TensorPool::Block TensorPool::take(size_t bytes) {
  const std::scoped_lock lock(mutex_);
  // The best fit, if an eighth at most of it is wasted.
  auto best = free_.end();
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    if (it->size < bytes || it->size > bytes + bytes / 8) continue;
    if (best == free_.end() || it->size <= best->size) best = it;
  }
  Block block{};
  if (best != free_.end()) {
    block = *best;
    free_.erase(best);
    free_bytes_ -= block.size;
  } else {
    static const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    block.size = round_up(bytes, page);
    // Room for it within what was once in use: what has lain free for the longest goes.
    const size_t limit = std::max(peak_, used_bytes_ + block.size);
    auto kept = free_.begin();
    for (; kept != free_.end() && used_bytes_ + free_bytes_ + block.size > limit; ++kept) {
      ::munmap(kept->data, kept->size);
      free_bytes_ -= kept->size;
    }
    free_.erase(free_.begin(), kept);
    block.data = map_block(block.size);
    if (block.data == nullptr) throw std::bad_alloc();
  }
  used_bytes_ += block.size;
  peak_ = std::max(peak_, used_bytes_);
  return block;
}

void TensorPool::give_back(Block block) {
  const std::scoped_lock lock(mutex_);
  used_bytes_ -= block.size;
  free_bytes_ += block.size;
  free_.push_back(block);
}

void TensorPool::trim() {
  const std::scoped_lock lock(mutex_);
  for (const Block& block : free_) ::munmap(block.data, block.size);
  free_.clear();
  free_bytes_ = 0;
  peak_ = used_bytes_;
}

size_t TensorPool::held() const {
  const std::scoped_lock lock(mutex_);
  return used_bytes_ + free_bytes_;
}

size_t TensorPool::peak() const {
  const std::scoped_lock lock(mutex_);
  return peak_;
}

}  // namespace neox
