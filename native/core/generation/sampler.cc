#include "core/generation/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>

#include "core/generation/logprobs.h"
#include "core/generation/ranking.h"
#include "core/kernels/kernels.h"

namespace neox {
namespace {

using kernels::RowRange;

// Memory for one row at a time.
struct Scratch {
  std::vector<float> weights;  // [vocab] proportional to the probabilities, 1 for the most likely token
  std::vector<float> typical;  // [vocab] minus the distance from the entropy, of the tokens left
  std::vector<int32_t> ids;
  Ranking ranking;
};

Scratch& scratch() {
  static thread_local Scratch memory;
  return memory;
}

// What a draw is from: the first `kept` tokens of the ranking, whose weights sum to `total`.
struct Selection {
  size_t kept = 0;
  double total = 0.0;
};

// The token that crosses top_p of the total is kept by Hugging Face's rule, left out by rinna's, which always keeps the
// first.
Selection keep_top_p(Scratch& s, const Selection& from, double top_p, TopPRule rule) {
  const double limit = top_p * from.total;
  Selection result;
  while (result.kept < from.kept) {
    const double sum = result.total + s.weights[static_cast<size_t>(s.ranking[result.kept])];
    if (rule == TopPRule::kRinna && sum > limit && result.kept > 0) break;
    result.total = sum;
    ++result.kept;
    if (rule == TopPRule::kHuggingFace && sum >= limit) break;
  }
  return result;
}

// Meister et al. 2022, "Locally typical sampling", as transformers has it: the tokens whose information content is
// nearest to the entropy of what is left, until their probability reaches typical_p, with all that are as near as the
// last.
Selection keep_typical(const float* logits, float largest, float scale, double typical_p, Selection from, Scratch& s) {
  if (from.kept < s.ranking.size()) {  // else `ids` has them all
    s.ids.clear();
    for (size_t i = 0; i < from.kept; ++i) s.ids.push_back(s.ranking[i]);
    std::sort(s.ids.begin(), s.ids.end());
  }
  const double log_total = std::log(from.total);
  const auto log_probability = [&](int32_t id) {
    return static_cast<double>((logits[id] - largest) * scale) - log_total;
  };
  double entropy = 0.0;
  for (const int32_t id : s.ids) entropy -= s.weights[static_cast<size_t>(id)] / from.total * log_probability(id);
  s.typical.resize(s.weights.size());
  for (const int32_t id : s.ids)
    s.typical[static_cast<size_t>(id)] = static_cast<float>(-std::abs(log_probability(id) + entropy));
  s.ranking.build(s.typical.data(), s.ids);
  Selection result;
  while (result.kept < from.kept && result.total < typical_p * from.total)
    result.total += s.weights[static_cast<size_t>(s.ranking[result.kept++])];
  const float last = s.typical[static_cast<size_t>(s.ranking[result.kept - 1])];
  while (result.kept < from.kept && s.typical[static_cast<size_t>(s.ranking[result.kept])] == last)
    result.total += s.weights[static_cast<size_t>(s.ranking[result.kept++])];
  return result;
}

// A weight that at least `count` tokens have, near that of the count-th: by a look at every 64th token.
float guess_least(const std::vector<float>& weights, int64_t count, Scratch& s) {
  constexpr size_t kStep = 64;
  std::vector<float>& sample = s.typical;
  sample.clear();
  for (size_t i = 0; i < weights.size(); i += kStep) sample.push_back(weights[i]);
  const size_t rank = 2 * static_cast<size_t>(count) / kStep + 8;
  if (rank >= sample.size()) return 0.0F;
  const auto at = sample.begin() + static_cast<std::ptrdiff_t>(rank);
  std::nth_element(sample.begin(), at, sample.end(), std::greater<>());
  return *at;
}

// Puts the tokens of at least this weight into `ids`; those of weight 0 are never drawn. Returns how many.
size_t collect(float least, Scratch& s) {
  s.ids.resize(s.weights.size());
  const auto count = static_cast<int64_t>(s.weights.size());
  least = std::max(least, std::numeric_limits<float>::denorm_min());
  s.ids.resize(static_cast<size_t>(kernels::kernels().at_least(s.weights.data(), count, least, s.ids.data())));
  return s.ids.size();
}

bool has_filter(const SamplingOptions& o) { return o.top_k > 0 || o.top_p < 1.0 || o.min_p > 0.0 || o.typical_p < 1.0; }

// Ranks the tokens that temperature, top-k, top-p, min-p and typical-p leave, in Hugging Face's order.
Selection select(const SamplingOptions& o, const float* logits, int64_t vocab, const RowRange& range, Scratch& s) {
  const auto scale = static_cast<float>(1.0 / std::max(o.temperature, 1e-30));
  s.weights.resize(static_cast<size_t>(vocab));
  Selection selection;
  selection.total = kernels::kernels().exp_sum(logits, vocab, range.largest, scale, s.weights.data());
  // What cannot be kept need not be ranked.
  if (o.top_k > 0) {
    if (static_cast<int64_t>(collect(guess_least(s.weights, o.top_k, s), s)) < o.top_k) collect(0.0F, s);
  } else {
    // Tokens below (1 - p) / V of the total sum to less than (1 - p): the nucleus is above them.
    const double outside = (1.0 - o.top_p) * selection.total / static_cast<double>(vocab);
    collect(std::max(static_cast<float>(0.999 * outside), static_cast<float>(o.min_p)), s);
  }
  if (has_filter(o)) {
    s.ranking.build(logits, s.ids);
  } else {
    s.ranking.take(s.ids);
  }
  selection.kept = s.ranking.size();

  const auto weight = [&](size_t rank) { return s.weights[static_cast<size_t>(s.ranking[rank])]; };
  const auto logit = [&](size_t rank) { return logits[s.ranking[rank]]; };
  if (o.top_k > 0) {
    // Every token that ties with the k-th is kept.
    size_t kept = std::min(static_cast<size_t>(o.top_k), selection.kept);
    while (kept < selection.kept && logit(kept) == logit(kept - 1)) ++kept;
    selection = {kept, 0.0};
    for (size_t i = 0; i < kept; ++i) selection.total += weight(i);
  }
  if (o.top_p < 1.0) selection = keep_top_p(s, selection, o.top_p, o.top_p_rule);
  if (o.min_p > 0.0) {
    // Relative to the most likely token, whose weight is 1.
    Selection result;
    while (result.kept < selection.kept && weight(result.kept) >= static_cast<float>(o.min_p))
      result.total += weight(result.kept++);
    selection = result;
  }
  if (o.typical_p < 1.0) selection = keep_typical(logits, range.largest, scale, o.typical_p, selection, s);
  return selection;
}

int32_t draw(const Selection& selection, double uniform, Scratch& s) {
  double target = uniform * selection.total;
  for (size_t i = 0; i < selection.kept; ++i) {
    target -= s.weights[static_cast<size_t>(s.ranking[i])];
    if (target < 0.0) return s.ranking[i];
  }
  return s.ranking[selection.kept - 1];
}

// Applies the processors to logits of this range, and says what range they leave.
RowRange process(const LogitsProcessors& processors, float* logits, int64_t vocab, const uint32_t* allowed,
                 RowRange range) {
  if (allowed == nullptr && processors.idle()) return range;
  processors.apply(logits, vocab, allowed);
  range = kernels::kernels().row_range(logits, vocab);
  if (!std::isfinite(range.largest)) throw_no_token_left();
  return range;
}

}  // namespace

double uniform_at(uint64_t seed, uint64_t counter, uint32_t stream) {
  std::array<uint32_t, 4> x = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), stream, 0};
  uint32_t key0 = static_cast<uint32_t>(seed);
  uint32_t key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * x[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * x[2];
    x = {static_cast<uint32_t>(b >> 32) ^ x[1] ^ key0, static_cast<uint32_t>(b),
         static_cast<uint32_t>(a >> 32) ^ x[3] ^ key1, static_cast<uint32_t>(a)};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  const uint64_t bits = (static_cast<uint64_t>(x[0]) << 32 | x[1]) >> 11;  // 53 bits
  return static_cast<double>(bits) * 0x1.0p-53;
}

Sampler::Sampler(SamplingOptions options, const std::vector<int64_t>& prompt)
    : options_(std::make_shared<const SamplingOptions>(std::move(options))), processors_(options_, prompt) {}

bool Sampler::ends(int64_t token) const {
  return std::find(options_->end_ids.begin(), options_->end_ids.end(), token) != options_->end_ids.end();
}

TokenChoice Sampler::next(float* logits, int64_t vocab, const uint32_t* allowed) {
  const RowRange own = finite_range(logits, vocab);
  TokenChoice choice;
  double log_sum = 0.0;
  std::vector<float> raw;  // only where both are asked for: the processors write over the logits
  const bool scored = options_->logprobs >= 0;
  if (scored) {
    log_sum = log_sum_exp(logits, vocab, own.largest);
    choice.top = most_likely(logits, vocab, log_sum, options_->logprobs);
    if (allowed != nullptr || !processors_.idle()) raw.assign(logits, logits + vocab);
  }
  const RowRange range = process(processors_, logits, vocab, allowed, own);
  if (options_->temperature == 0.0) {
    choice.token = range.first_largest;
  } else {
    Scratch& s = scratch();
    const Selection selection = select(*options_, logits, vocab, range, s);
    const auto step = static_cast<uint64_t>(processors_.generated());
    choice.token = draw(selection, uniform_at(options_->seed, step, options_->stream), s);
  }
  if (scored) {
    const float logit = raw.empty() ? logits[choice.token] : raw[static_cast<size_t>(choice.token)];
    choice.logprob = static_cast<float>(logit - log_sum);
  }
  processors_.push(choice.token);
  return choice;
}

std::vector<float> Sampler::probabilities(float* logits, int64_t vocab, const uint32_t* allowed) const {
  const RowRange range = process(processors_, logits, vocab, allowed, finite_range(logits, vocab));
  std::vector<float> result(static_cast<size_t>(vocab), 0.0F);
  if (options_->temperature == 0.0) {
    result[static_cast<size_t>(range.first_largest)] = 1.0F;
    return result;
  }
  Scratch& s = scratch();
  const Selection selection = select(*options_, logits, vocab, range, s);
  for (size_t i = 0; i < selection.kept; ++i) {
    const auto id = static_cast<size_t>(s.ranking[i]);
    result[id] = static_cast<float>(s.weights[id] / selection.total);
  }
  return result;
}

}  // namespace neox
