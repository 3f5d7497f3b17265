// AdamW (Loshchilov & Hutter 2019) over one flat parameter buffer, with torch.optim.AdamW's arithmetic.
#pragma once

#include <ATen/core/Tensor.h>

#include <utility>
#include <vector>

namespace neox {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.99;
  double epsilon = 1e-8;
  double weight_decay = 0.01;
};

class AdamW {
 public:
  // All that changes from step to step.
  struct State {
    int64_t steps = 0;        // updates so far
    at::Tensor mean, square;  // as the parameters
  };

  // `decayed`: where weight decay applies, as [first, count] of the parameters.
  AdamW(const AdamWOptions& options, const at::Tensor& parameters, std::vector<std::pair<int64_t, int64_t>> decayed);

  void step(at::Tensor& parameters, const at::Tensor& gradients, double learning_rate);

  State& state() { return state_; }
  const State& state() const { return state_; }

 private:
  AdamWOptions options_;
  std::vector<std::pair<int64_t, int64_t>> decayed_;
  State state_;
};

// Scales gradients in place so that their L2 norm is at most `limit` (0: no limit), as torch.nn.utils.clip_grad_norm_
// does. Returns the norm before.
double clip_gradient_norm(at::Tensor& gradients, double limit);

}  // namespace neox
