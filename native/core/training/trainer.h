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
  int64_t prefix_length = 0;   // P, where another process has the encoder
  bool keep_lanes = false;     // their sum is another's to make: see Trainer::lanes()
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

// Part of a step's batches, whose gradients are added up for themselves. The step's gradient is
// ((lane 0 + lane 1) + lane 2) + ..., wherever the lanes were computed.
struct Lane {
  int64_t number = 0;
  at::Tensor gradient;  // [L, 2, N, P, D] float32, of the sum of losses
  double loss = 0.0;    // sum over the target tokens
  int64_t tokens = 0;
};

class Trainer {
 public:
  // Readies the model for backward passes. `encoder` is null where another process has it: then this one adds up
  // gradients, and neither steps nor has a state.
  Trainer(Model& model, std::shared_ptr<PrefixEncoder> encoder, const TrainerOptions& options,
          const CancelFlag& cancel);
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  // The prefix that all batches of the step in progress see, [P, L*2*H] float32 on the CPU: the encoder runs once per
  // step. Without an encoder the caller fills it in before the first batch, from the process that has one.
  const at::Tensor& prefix_values();

  // Adds a batch to a lane of the step. Lanes come in ascending order.
  // `loss_scale` multiplies the gradient on its way back through the model and is divided out of the result. What
  // overflowed makes the step's gradient and its norm Inf or NaN.
  LossSum accumulate(const Model& model, const TrainingBatch& batch, int64_t lane, double loss_scale,
                     const CancelFlag& cancel);
  // The lanes so far, where they are kept.
  const std::vector<Lane>& lanes() const { return lanes_; }
  // What the step in progress has instead of lanes: their sum, with the elements of a gradient.
  void set_sum(const at::Tensor& gradient, double loss, int64_t tokens);
  // Forgets the step in progress.
  void clear();
  // Divides by the number of target tokens, clips, updates the encoder. Starts a new step.
  StepResult step(double learning_rate, double clip);
  // Drops what was accumulated, and gives back the memory that the model keeps for batches.
  void reset();

  // The encoder's gradient of the mean loss over what was accumulated, flat and unclipped.
  at::Tensor gradient();

  TrainerState state() const;  // a copy, on the CPU
  // The tensors may be flat; those of another size are refused.
  void set_state(const TrainerState& state);

 private:
  const PrefixEncoder::Pass& pass();
  AdamW& optimizer();
  const AdamW& optimizer() const;
  void fold();
  const Lane& sum();

  std::shared_ptr<PrefixEncoder> encoder_;
  TrainerOptions options_;
  std::optional<AdamW> optimizer_;
  std::shared_ptr<TensorPool> pool_;  // the model's
  std::vector<int64_t> shape_;        // L, 2, N, P, D
  at::Device device_;                 // the model's
  // Of the step in progress.
  std::optional<PrefixEncoder::Pass> pass_;
  at::Tensor values_;  // without an encoder
  std::shared_ptr<const KeyValueBlock> prefix_;
  std::vector<Lane> lanes_;  // unless they are kept, one at most but the one in progress
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
