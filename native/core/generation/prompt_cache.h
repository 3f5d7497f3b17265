// Keys and values of the beginnings of earlier prompts, so that a beginning which comes again is not computed again.
//
// What a token's keys and values are depends on the prefix and on every token before it. So there is one tree for each
// prefix, found by the prefix's own numbers, and a node of it is entered only by comparing its tokens: nothing is ever
// taken on the word of a hash or a name.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "core/kv/past.h"

namespace neox {

class PromptCache {
 public:
  explicit PromptCache(int64_t max_bytes) : max_bytes_(max_bytes) {}

  // Copies the keys and values of the longest known beginning of `tokens`, at most `limit` tokens of it, into an empty
  // row that has room for them. Returns how many tokens that were.
  int64_t load(const std::vector<int64_t>& tokens, int64_t limit, Past& row);

  // Keeps copies of what `row` holds of `tokens`, which are its first ones. What was used least recently goes.
  void store(const std::vector<int64_t>& tokens, const Past& row);

  int64_t bytes() const { return bytes_; }

 private:
  struct Node {
    Node* parent = nullptr;
    std::vector<int64_t> tokens;  // kBlock of them; a node with fewer has no children
    at::Tensor keys_values;       // [L, 2, N, tokens, D]
    std::vector<std::unique_ptr<Node>> children;
    std::list<Node*>::iterator place;
    int64_t bytes = 0;
  };
  struct Tree {
    bool with_prefix = false;
    // Not kept alive by its tree: the tree of a prefix that nobody has any more goes at the next store.
    std::weak_ptr<const KeyValueBlock> prefix;
    Node root;
  };

  Tree* find(const std::shared_ptr<const KeyValueBlock>& prefix);
  void drop_dead_trees();
  void drop(Node& node);  // with all below it
  void touch(Node* node);
  bool make_room(int64_t bytes, const Node* keep);

  int64_t max_bytes_;
  int64_t bytes_ = 0;
  std::vector<std::unique_ptr<Tree>> trees_;
  // Most recently used first. A node comes before its children, so the last one is always a leaf.
  std::list<Node*> recent_;
};

}  // namespace neox
