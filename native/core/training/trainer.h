// Training steps of a prefix encoder over a frozen model. Epochs, data and schedules are the caller's; here is what one step does.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "core/cancel.h"
#include "core/model/gpt_neox.h"
#include "core/prefix/encoder.h"
#include "core/training/adamw.h"

namespace neox {

// Rows of a batch: `ids` and `targets` packed one row behind the other.
struct TrainingBatch {
  std::vector<int64_t> ids;
  std::vector<int64_t> targets;  // kIgnoredTarget: none
  std::vector<int64_t> lengths;  // of the rows
};

LossSum evaluate_batch(const GPTNeoX& model, const Prefix* prefix, const TrainingBatch& batch,
                       const CancelFlag& cancel);

struct StepResult {
  double loss = 0.0;       // mean over the target tokens of all batches of the step
  int64_t tokens = 0;      // target tokens
  double grad_norm = 0.0;  // before clipping
};

class Trainer {
 public:
  Trainer(std::shared_ptr<PrefixEncoder> encoder, const AdamWOptions& options);

  // Adds a batch to the step's gradient. The encoder runs once per step, so that all batches of a step see one prefix.
  LossSum accumulate(const GPTNeoX& model, const TrainingBatch& batch, const CancelFlag& cancel);
  // Divides by the number of target tokens, clips, updates the encoder. Starts a new step.
  StepResult step(double learning_rate, double clip);
  // Drops what was accumulated.
  void reset();

  // The encoder's gradient of the mean loss over what was accumulated, flat and unclipped.
  at::Tensor gradient() const;

 private:
  std::shared_ptr<PrefixEncoder> encoder_;
  AdamW optimizer_;
  std::shared_ptr<const Prefix> prefix_;  // of the step in progress
  at::Tensor prefix_grad_;                // [L, 2, N, P, D] float32, of the sum of losses
  LossSum sum_;
};

struct FitOptions {
  int64_t steps = 200;
  double learning_rate = 1e-4;
  double weight_decay = 0.01;
};

// Fits the encoder's output to `target` [P, L*2*H] by AdamW on the mean squared error, as rinna's init_prefix does. Returns the last error.
double fit_encoder(PrefixEncoder& encoder, const at::Tensor& target, const FitOptions& options,
                   const CancelFlag& cancel);

}  // namespace neox
