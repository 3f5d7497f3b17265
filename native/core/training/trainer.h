// Training steps of a prefix encoder over a frozen model. Epochs, data and schedules are the caller's; here is what one
// step does.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <optional>
#include <vector>

#include "core/base/cancel.h"
#include "core/model/model.h"
#include "core/training/adamw.h"
#include "core/training/encoder.h"

namespace neox {

// Rows of a batch: `ids` and `targets` packed one row behind the other.
struct TrainingBatch {
  std::vector<int64_t> ids;
  std::vector<int64_t> targets;  // kIgnoredTarget: none
  std::vector<int64_t> lengths;  // of the rows
};

LossSum evaluate_batch(const Model& model, const KeyValueBlock* prefix, const TrainingBatch& batch,
                       const CancelFlag& cancel);

struct TrainerOptions {
  AdamWOptions optimizer;
  bool decay_biases = false;
  bool checkpointing = false;  // see BackwardOptions
  bool copy_weights = true;    // see FrozenLinear::prepare_backward
};

struct StepResult {
  double loss = 0.0;       // mean over the target tokens of all batches of the step
  int64_t tokens = 0;      // target tokens
  double grad_norm = 0.0;  // before clipping
  bool applied = false;    // false: grad_norm is not finite, and nothing was changed
};

// All that a trainer knows beside its options and the encoder's parameters. With these it goes on bit by bit as if it
// had never stopped, between two steps or between two batches of one. The step in progress has the number
// `optimizer.steps`, which its dropout mask is drawn from: a step that was not applied does not count, and the next one
// has its mask.
struct TrainerState {
  AdamW::State optimizer;
  at::Tensor gradient;  // [L, 2, N, P, D] float32, of the sum of losses; undefined: nothing accumulated
  double loss = 0.0;    // sum over the target tokens accumulated
  int64_t tokens = 0;
};

class Trainer {
 public:
  // Readies the model for backward passes.
  Trainer(Model& model, std::shared_ptr<PrefixEncoder> encoder, const TrainerOptions& options,
          const CancelFlag& cancel);
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  // Adds a batch to the step's gradient. The encoder runs once per step, so that all batches of a step see one prefix.
  // `loss_scale` multiplies the gradient on its way back through the model and is divided out of the result. What
  // overflowed makes the step's gradient and its norm Inf or NaN.
  LossSum accumulate(const Model& model, const TrainingBatch& batch, double loss_scale, const CancelFlag& cancel);
  // Divides by the number of target tokens, clips, updates the encoder. Starts a new step.
  StepResult step(double learning_rate, double clip);
  // Drops what was accumulated, and gives back the memory that the model keeps for batches.
  void reset();

  // The encoder's gradient of the mean loss over what was accumulated, flat and unclipped.
  at::Tensor gradient();

  TrainerState state() const;  // a copy, on the CPU
  // The tensors may be flat; those of another size are refused.
  void set_state(const Model& model, const TrainerState& state);

 private:
  const PrefixEncoder::Pass& pass();
  void clear();

  std::shared_ptr<PrefixEncoder> encoder_;
  TrainerOptions options_;
  AdamW optimizer_;
  std::shared_ptr<TensorPool> pool_;  // the model's
  // Of the step in progress.
  std::optional<PrefixEncoder::Pass> pass_;
  std::shared_ptr<const KeyValueBlock> prefix_;
  at::Tensor prefix_grad_;  // [L, 2, N, P, D] float32, of the sum of losses
  double loss_ = 0.0;
  int64_t tokens_ = 0;
};

struct FitOptions {
  int64_t steps = 200;
  double learning_rate = 1e-4;
  double weight_decay = 0.01;
};

// Fits the encoder's output to `target` [P, L*2*H] by AdamW on the mean squared error, as rinna's init_prefix does.
// Returns the last error.
double fit_encoder(PrefixEncoder& encoder, const at::Tensor& target, const FitOptions& options,
                   const CancelFlag& cancel);

}  // namespace neox
