// Choosing the next token from a row of logits: greedy, or temperature, top-k and top-p in Hugging Face's order and by its rules, then a
// draw.
#pragma once

#include <cstdint>
#include <vector>

namespace neox {

struct SamplingOptions {
  double temperature = 1.0;  // 0: greedy
  int64_t top_k = 0;         // 0: off
  double top_p = 1.0;        // 1: off
  uint64_t seed = 0;
};

class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options) : options_(options) {}

  // `logits` has `vocab` entries. `step` counts the tokens that the row has drawn so far: the draw depends on seed and step alone,
  // never on what other rows do.
  int64_t next(const float* logits, int64_t vocab, uint64_t step);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  SamplingOptions options_;
  std::vector<Candidate> candidates_;
  std::vector<double> weights_;
};

// Uniform in [0, 1) from a counter: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
double uniform_at(uint64_t seed, uint64_t counter);

}  // namespace neox
