// AdamW (Loshchilov & Hutter 2019) over one flat parameter buffer, with torch.optim.AdamW's arithmetic.
#pragma once

#include <ATen/core/Tensor.h>

namespace neox {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.99;
  double epsilon = 1e-8;
  double weight_decay = 0.01;
};

class AdamW {
 public:
  // `decayed` is 1 where weight decay applies, 0 where not; shaped as the parameters.
  AdamW(const AdamWOptions& options, at::Tensor decayed);

  void step(at::Tensor& parameters, const at::Tensor& gradients, double learning_rate);

  int64_t steps() const { return steps_; }

 private:
  AdamWOptions options_;
  at::Tensor decayed_;
  at::Tensor mean_, square_;
  int64_t steps_ = 0;
};

// Scales gradients in place so that their L2 norm is at most `limit` (0: no limit), as torch.nn.utils.clip_grad_norm_ does. Returns
// the norm before.
double clip_gradient_norm(at::Tensor& gradients, double limit);

}  // namespace neox
