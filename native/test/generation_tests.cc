// Tests of what choosing tokens is made of. What can be seen from JavaScript is tested there.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "core/generation/beams.h"
#include "core/generation/logprobs.h"
#include "core/generation/ranking.h"
#include "core/generation/sampler.h"
#include "core/kernels/kernels.h"
#include "tests.h"

namespace {

using neox::kernels::KernelTable;

std::vector<float> normal_floats(size_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> distribution;
  std::vector<float> values(count);
  for (float& value : values) value = distribution(generator);
  return values;
}

template <typename Body>
void for_each_table(const Body& body) {
  for (const char* name : {"portable", "avx2", "avx512", "avx512_bf16"}) {
    if (const KernelTable* table = neox::kernels::find_kernels(name)) body(*table);
  }
}

constexpr float kInfinity = std::numeric_limits<float>::infinity();

void test_row_range() {
  for_each_table([](const KernelTable& table) {
    const std::string name = table.name;
    for (const size_t count : {1, 7, 16, 17, 100}) {
      auto x = normal_floats(count, 1);
      for (size_t place = 0; place < count; ++place) {
        const auto count64 = static_cast<int64_t>(count);
        const auto range_with = [&](float value) {
          auto row = x;
          row[place] = value;
          return table.row_range(row.data(), count64);
        };
        check(!range_with(std::nanf("")).finite, name + ": NaN is found");
        check(!range_with(kInfinity).finite, name + ": infinity is found");
        const auto banned = range_with(-kInfinity);
        check(banned.finite && (count == 1 || banned.least > -100.0F), name + ": -infinity is no least");
        const auto best = range_with(50.0F);
        check(best.largest == 50.0F && best.first_largest == static_cast<int64_t>(place), name + ": the largest");
        check(range_with(-50.0F).least == -50.0F, name + ": the least");
      }
      x.assign(count, 2.0F);
      check(table.row_range(x.data(), static_cast<int64_t>(count)).first_largest == 0, name + ": the first of equals");
    }
  });
}

void test_exp_sum() {
  for_each_table([](const KernelTable& table) {
    for (const size_t count : {1, 15, 1000, 44417}) {
      auto x = normal_floats(count, 2);
      x[count / 2] = -kInfinity;
      x[0] = 4.0F;
      std::vector<float> weights(count);
      const double sum = table.exp_sum(x.data(), static_cast<int64_t>(count), 4.0F, 0.5F, weights.data());
      double expected = 0.0;
      double worst = 0.0;
      for (size_t i = 0; i < count; ++i) {
        const double weight = std::exp((static_cast<double>(x[i]) - 4.0) * 0.5);
        expected += weight;
        worst = std::max(worst, std::abs(weights[i] - weight));
      }
      check(std::abs(sum / expected - 1.0) < 1e-6 && worst < 1e-6, std::string(table.name) + ": sum of exponentials");
      check(table.exp_sum(x.data(), static_cast<int64_t>(count), 4.0F, 0.5F, nullptr) == sum,
            std::string(table.name) + ": the same sum without the terms");
      std::vector<int32_t> found(count);
      const int64_t hits = table.at_least(x.data(), static_cast<int64_t>(count), 0.5F, found.data());
      std::vector<int32_t> wanted;
      for (size_t i = 0; i < count; ++i) {
        if (x[i] >= 0.5F) wanted.push_back(static_cast<int32_t>(i));
      }
      found.resize(static_cast<size_t>(hits));
      check(found == wanted, std::string(table.name) + ": elements of at least a value");
    }
  });
}

// A token's attention is the same to the bit whether it comes alone or with the tokens before it.
void test_attention_by_token() {
  namespace kernels = neox::kernels;
  for_each_table([](const KernelTable& table) {
    for (const int64_t dim : {4, 9, 16, 20, 64, 80}) {
      for (const int64_t tokens : {2, 17, 50}) {
        const auto values = normal_floats(static_cast<size_t>(3 * tokens * dim), 3);
        const float* q = values.data();
        const float* k = q + tokens * dim;
        const float* v = k + tokens * dim;
        std::vector<float> out(static_cast<size_t>(tokens * dim));
        std::vector<float> alone(static_cast<size_t>(dim));
        kernels::AttentionTask task;
        task.head_size = dim;
        task.scale = 0.3F;
        task.query_stride = task.out_stride = dim;
        const auto run = [&](int64_t first, int64_t count, float* to) {
          task.queries = q + first * dim;
          task.tokens = count;
          // Where the prefix ends and the text begins must not matter either.
          const int64_t prefix = first / 2;
          task.prefix = {k, v, dim, prefix};
          task.text = {k + prefix * dim, v + prefix * dim, dim, first + count - prefix};
          task.out = to;
          std::vector<float> scratch(static_cast<size_t>(table.attention_forward_scratch(task)));
          table.attention_forward(task, scratch.data());
        };
        run(0, tokens, out.data());
        for (int64_t t = 1; t < tokens; ++t) {
          run(t, 1, alone.data());
          check(std::memcmp(alone.data(), out.data() + t * dim, static_cast<size_t>(dim) * sizeof(float)) == 0,
                std::string(table.name) + ": token " + std::to_string(t) + " of " + std::to_string(tokens) + ", D " +
                    std::to_string(dim) + ", by itself");
        }
      }
    }
  });
}

void test_ranking() {
  neox::Ranking ranking;
  for (const size_t count : {1, 100, 128, 129, 5000}) {
    for (const float step : {0.0F, 0.5F, 1e-6F, 1e-41F}) {
      auto score = normal_floats(count, 4);
      for (float& value : score) {
        if (step > 1e-30F) value = std::round(value / step) * step;  // with ties
        if (step == 0.0F) value = 1.0F;
        if (step < 1e-30F) value *= step;  // denormal numbers
      }
      if (count > 1 && step > 1e-30F) score[1] = 1e9F;
      std::vector<int32_t> ids(count);
      std::iota(ids.begin(), ids.end(), 0);
      ranking.build(score.data(), ids);
      std::vector<int32_t> expected = ids;
      std::stable_sort(expected.begin(), expected.end(), [&](int32_t a, int32_t b) {
        return score[static_cast<size_t>(a)] > score[static_cast<size_t>(b)];
      });
      bool equal = ranking.size() == count;
      for (size_t i = 0; i < count && equal; ++i) equal = ranking[i] == expected[i];
      check(equal, "a ranking of " + std::to_string(count) + " in steps of " + std::to_string(step));
      const auto best = neox::most_likely(score.data(), static_cast<int64_t>(count), 0.0, 7);
      equal = best.size() == std::min<size_t>(7, count);
      for (size_t i = 0; i < best.size() && equal; ++i) equal = best[i].first == expected[i];
      check(equal, "the most likely of " + std::to_string(count) + " in steps of " + std::to_string(step));
    }
  }
}

void test_draws() {
  // The known answer of Random123 for Philox4x32-10 with key and counter 0: 6627e8d5 e169c58d ...
  check(neox::uniform_at(0, 0) == static_cast<double>(0x6627e8d5e169c58dULL >> 11) * 0x1.0p-53,
        "Philox's known answer");
  check(neox::uniform_at(1, 2, 3) != neox::uniform_at(1, 2, 4), "streams differ");
  // A grammar's mask: only its tokens are drawn, in words that are all, partly and not set.
  neox::SamplingOptions options;
  options.seed = 5;
  neox::Sampler sampler(options, {});
  const auto logits = normal_floats(100, 6);
  const std::array<uint32_t, 4> allowed = {0, 0x80000001U, ~0U, 0x8U};
  bool inside = true;
  for (int i = 0; i < 500; ++i) {
    auto row = logits;
    const int64_t token = sampler.next(row.data(), 100, allowed.data()).token;
    inside = inside && (allowed[static_cast<size_t>(token / 32)] >> (token % 32) & 1U) != 0;
  }
  check(inside, "only allowed tokens are drawn");
  check(sampler.generated() == 500, "drawn tokens are counted");
}

// What an engine reserves for a search: each beam's memory is its own and for no more tokens than it may come to have.
void test_room_of_beams() {
  const neox::KeyValueShape shape = {1, 1, 1, 1000, at::kFloat};
  neox::GenerationRequest row;
  row.prompt = {1};
  row.max_new_tokens = 40;
  neox::BeamSearch search(shape, row, {3, 1.0, neox::EarlyStopping::kNo, 1});
  int64_t steps = 0;
  for (; !search.done(); ++steps) {
    search.make_room(shape);
    search.make_room(shape);  // a forward pass that failed is tried again
    std::vector<const neox::KeyValueStorage*> storages;
    for (neox::Beam& beam : search.running()) {
      const neox::KeyValueStorage* storage = beam.cache.storage.get();
      check(storage->used == steps && storage->capacity > steps, "a beam has room for its next token");
      check(storage->capacity <= 40, "and for no more than it may come to have");
      check(std::find(storages.begin(), storages.end(), storage) == storages.end(), "and it is its own");
      storages.push_back(storage);
      beam.cache.claim(shape, 1);  // as the forward pass does
      check(beam.cache.storage.get() == storage, "which the forward pass takes");
      beam.cache.length += 1;
    }
    auto logits = normal_floats(3 * 32, static_cast<uint32_t>(steps));
    search.step(logits.data(), 32);
  }
  check(steps == 40 && search.results().front().tokens.size() == 40, "a search goes to its last token");
}

}  // namespace

void test_generation() {
  test_row_range();
  test_exp_sum();
  test_attention_by_token();
  test_ranking();
  test_draws();
  test_room_of_beams();
}
