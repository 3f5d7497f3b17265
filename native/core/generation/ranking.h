// Tokens from the best down, sorted only as far as somebody looks: of a vocabulary of tens of thousands a draw needs a
// few.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace neox {

class Ranking {
 public:
  // Ranks the tokens `ids`, which ascend, by `score[id]`, largest first; of equal ones the lower id first. `score` must
  // stay.
  void build(const float* score, const std::vector<int32_t>& ids);

  // Takes the tokens in the order that they have.
  void take(const std::vector<int32_t>& ids) {
    order_ = ids;
    sorted_ = ids.size();
  }

  size_t size() const { return order_.size(); }
  int32_t operator[](size_t rank) {
    while (rank >= sorted_) sort_bucket();
    return order_[rank];
  }

 private:
  void sort_bucket();

  const float* score_ = nullptr;
  std::vector<int32_t> order_;    // bucket by bucket; within one, sorted up to sorted_
  std::vector<uint16_t> bucket_;  // of each id, while building
  std::vector<uint32_t> ends_;    // of the buckets in order_
  size_t next_ = 0;               // first bucket that is not sorted
  size_t sorted_ = 0;
};

}  // namespace neox
