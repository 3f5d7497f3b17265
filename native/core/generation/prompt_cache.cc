#include "core/generation/prompt_cache.h"

#include <ATen/ops/clone.h>
#include <ATen/ops/equal.h>

#include <algorithm>

namespace neox {
namespace {

// Tokens of a node. Smaller ones would share more and cost more bookkeeping; a part of a node can be used, too.
constexpr int64_t kBlock = 16;
constexpr int64_t kNodeOverhead = 256;  // bytes beside the tensor, roughly

bool same_numbers(const KeyValueBlock& a, const KeyValueBlock& b) {
  // As bytes: -0 and 0 are different keys, and a NaN is itself.
  return a.keys_values.sizes() == b.keys_values.sizes() &&
         at::equal(a.keys_values.view(at::kByte), b.keys_values.view(at::kByte));
}

// How many of a node's tokens stand in `tokens` from `at` on, before `end`.
int64_t matching(const std::vector<int64_t>& node, const std::vector<int64_t>& tokens, int64_t at, int64_t end) {
  const int64_t most = std::min(static_cast<int64_t>(node.size()), end - at);
  int64_t count = 0;
  while (count < most && node[static_cast<size_t>(count)] == tokens[static_cast<size_t>(at + count)]) ++count;
  return count;
}

}  // namespace

PromptCache::Tree* PromptCache::find(const std::shared_ptr<const KeyValueBlock>& prefix) {
  for (const auto& tree : trees_) {
    if (tree->with_prefix == (prefix != nullptr) && tree->prefix.lock() == prefix) return tree.get();
  }
  if (prefix == nullptr) return nullptr;
  // The same numbers, loaded once more: what was computed behind them is as good.
  for (const auto& tree : trees_) {
    const auto known = tree->prefix.lock();
    if (known == nullptr || !same_numbers(*known, *prefix)) continue;
    tree->prefix = prefix;
    return tree.get();
  }
  return nullptr;
}

void PromptCache::touch(Node* node) {
  for (; node->parent != nullptr; node = node->parent) recent_.splice(recent_.begin(), recent_, node->place);
}

int64_t PromptCache::load(const std::vector<int64_t>& tokens, int64_t limit, Past& row) {
  Tree* tree = find(row.block);
  if (tree == nullptr) return 0;
  Node* node = &tree->root;
  int64_t at = 0;
  while (at < limit) {
    Node* best = nullptr;
    int64_t most = 0;
    for (const auto& child : node->children) {
      const int64_t count = matching(child->tokens, tokens, at, limit);
      if (count <= most) continue;
      most = count;
      best = child.get();
    }
    if (best == nullptr) break;
    row.storage->keys_values.narrow(3, at, most).copy_(best->keys_values.narrow(3, 0, most));
    at += most;
    node = best;
    if (most < kBlock) break;
  }
  touch(node);
  row.length = at;
  row.storage->used = at;
  return at;
}

void PromptCache::store(const std::vector<int64_t>& tokens, const Past& row) {
  drop_dead_trees();
  Tree* tree = find(row.block);
  if (tree == nullptr) {
    trees_.push_back(std::make_unique<Tree>());
    tree = trees_.back().get();
    tree->with_prefix = row.block != nullptr;
    tree->prefix = row.block;
  }
  Node* node = &tree->root;
  const int64_t end = std::min(static_cast<int64_t>(tokens.size()), row.length);
  for (int64_t at = 0; at < end; at += kBlock) {
    const int64_t count = std::min(kBlock, end - at);
    Node* next = nullptr;
    for (const auto& child : node->children) {
      if (matching(child->tokens, tokens, at, at + count) == count) next = child.get();
    }
    if (next == nullptr) {
      const at::Tensor source = row.storage->keys_values.narrow(3, at, count);
      const int64_t bytes = static_cast<int64_t>(source.numel() * source.element_size()) + kNodeOverhead;
      touch(node);
      if (!make_room(bytes, node)) break;
      // What this node continues is held by it from now on.
      std::erase_if(node->children, [&](const std::unique_ptr<Node>& child) {
        const auto size = static_cast<int64_t>(child->tokens.size());
        if (size >= count || matching(child->tokens, tokens, at, at + size) < size) return false;
        drop(*child);
        return true;
      });
      auto made = std::make_unique<Node>();
      made->parent = node;
      made->tokens.assign(tokens.begin() + at, tokens.begin() + at + count);
      made->keys_values = source.clone(at::MemoryFormat::Contiguous);
      made->bytes = bytes;
      recent_.push_front(made.get());
      made->place = recent_.begin();
      bytes_ += bytes;
      next = made.get();
      node->children.push_back(std::move(made));
    }
    node = next;
  }
  touch(node);
  if (tree->root.children.empty()) std::erase_if(trees_, [&](const auto& other) { return other.get() == tree; });
}

bool PromptCache::make_room(int64_t bytes, const Node* keep) {
  while (bytes_ + bytes > max_bytes_) {
    // The nodes that the new one hangs on are the most recent of all: when one of them is the last, nothing else is
    // left.
    if (recent_.empty() || recent_.back() == keep) return false;
    Node* last = recent_.back();
    Node* parent = last->parent;
    drop(*last);
    std::erase_if(parent->children, [&](const auto& child) { return child.get() == last; });
  }
  return true;
}

void PromptCache::drop(Node& node) {
  for (const auto& child : node.children) drop(*child);
  if (node.parent == nullptr) return;
  bytes_ -= node.bytes;
  recent_.erase(node.place);
}

void PromptCache::drop_dead_trees() {
  std::erase_if(trees_, [&](const std::unique_ptr<Tree>& tree) {
    const bool dead = (tree->with_prefix && tree->prefix.expired()) || tree->root.children.empty();
    if (dead) drop(tree->root);
    return dead;
  });
}

}  // namespace neox
