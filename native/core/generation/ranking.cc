#include "core/generation/ranking.h"

#include <algorithm>

namespace neox {
namespace {

// Buckets of equal width between the best and the worst score. Few tokens are sorted at once.
constexpr size_t kBuckets = 2048;
constexpr size_t kFew = 128;

}  // namespace

void Ranking::build(const float* score, const std::vector<int32_t>& ids) {
  score_ = score;
  next_ = 0;
  sorted_ = 0;
  if (ids.size() <= kFew) {
    order_ = ids;
    ends_.assign(1, static_cast<uint32_t>(ids.size()));
    return;
  }
  float largest = score[ids.front()];
  float least = largest;
  for (const int32_t id : ids) {
    largest = std::max(largest, score[id]);
    least = std::min(least, score[id]);
  }
  const double range = static_cast<double>(largest) - least;
  const double scale = range > 0.0 ? static_cast<double>(kBuckets) / range : 0.0;
  bucket_.resize(ids.size());
  ends_.assign(kBuckets + 1, 0);
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto at = static_cast<size_t>((static_cast<double>(largest) - score[ids[i]]) * scale);
    bucket_[i] = static_cast<uint16_t>(std::min(at, kBuckets - 1));
    ++ends_[bucket_[i] + 1U];
  }
  // Counts become starts, and the starts ends as the buckets fill.
  for (size_t b = 1; b <= kBuckets; ++b) ends_[b] += ends_[b - 1];
  order_.resize(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) order_[ends_[bucket_[i]]++] = ids[i];
  ends_.pop_back();
}

void Ranking::sort_bucket() {
  const auto end = static_cast<size_t>(ends_[next_++]);
  std::sort(order_.begin() + static_cast<std::ptrdiff_t>(sorted_), order_.begin() + static_cast<std::ptrdiff_t>(end),
            [this](int32_t a, int32_t b) { return score_[a] != score_[b] ? score_[a] > score_[b] : a < b; });
  sorted_ = end;
}

}  // namespace neox
