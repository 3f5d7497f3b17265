#include "core/training/trainer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mse_loss.h>

#include <cmath>
#include <string>
#include <utility>

#include "core/base/error.h"

namespace neox {
namespace {

[[noreturn]] void refuse(const std::string& message) { throw CoreError("NEOX_BAD_ARGUMENT", message); }

std::vector<Row> rows_of(const TrainingBatch& batch, const Model& model, const KeyValueBlock* prefix) {
  const int64_t vocab = model.config().vocab_size;
  for (const int64_t id : batch.ids) {
    if (id < 0 || id >= vocab) refuse("The token id " + std::to_string(id) + " is not in the vocabulary");
  }
  for (const int64_t target : batch.targets) {
    if (target != kIgnoredTarget && (target < 0 || target >= vocab))
      refuse("The target " + std::to_string(target) + " is not in the vocabulary");
  }
  std::vector<Row> rows;
  const auto total = static_cast<int64_t>(batch.ids.size());
  int64_t first = 0;
  bool covered = batch.targets.size() == batch.ids.size();
  for (const int64_t length : batch.lengths) {
    covered = covered && length > 0 && length <= total - first;
    if (!covered) break;
    rows.push_back({first, length, prefix, nullptr});
    first += length;
  }
  if (!covered || first != total || rows.empty())
    refuse("A batch has as many targets as tokens, in rows that cover them");
  return rows;
}

at::Tensor ids_of(const TrainingBatch& batch, const Model& model) {
  auto* data = const_cast<int64_t*>(batch.ids.data());
  return at::from_blob(data, {static_cast<int64_t>(batch.ids.size())}, at::kLong).to(model.options().device);
}

std::vector<std::pair<int64_t, int64_t>> decayed(PrefixEncoder& encoder, bool biases) {
  if (biases) return {{0, encoder.flat().numel()}};
  return encoder.weights();
}

}  // namespace

LossSum evaluate_batch(const Model& model, const KeyValueBlock* prefix, const TrainingBatch& batch,
                       const CancelFlag& cancel) {
  auto rows = rows_of(batch, model, prefix);
  return model.loss(ids_of(batch, model), batch.targets, rows, cancel);
}

Trainer::Trainer(Model& model, std::shared_ptr<PrefixEncoder> encoder, const TrainerOptions& options,
                 const CancelFlag& cancel)
    : encoder_(std::move(encoder)),
      options_(options),
      optimizer_(options.optimizer, encoder_->flat(), decayed(*encoder_, options.decay_biases)),
      pool_(model.pool()) {
  model.prepare_backward(options.copy_weights, cancel);
}

Trainer::~Trainer() { reset(); }

const PrefixEncoder::Pass& Trainer::pass() {
  if (!pass_) pass_ = encoder_->forward(optimizer_.state().steps);
  return *pass_;
}

LossSum Trainer::accumulate(const Model& model, const TrainingBatch& batch, double loss_scale,
                            const CancelFlag& cancel) {
  if (!prefix_) prefix_ = make_block(model.kv_shape(), pass().output);
  auto rows = rows_of(batch, model, prefix_.get());
  const auto result =
      model.loss_and_gradient(ids_of(batch, model), batch.targets, rows, {loss_scale, options_.checkpointing}, cancel);
  if (prefix_grad_.defined()) {
    prefix_grad_.add_(result.prefix);
  } else {
    prefix_grad_ = result.prefix;
  }
  loss_ += result.sum.loss;
  tokens_ += result.sum.tokens;
  return result.sum;
}

at::Tensor Trainer::gradient() {
  if (!prefix_grad_.defined() || tokens_ == 0) refuse("A training step needs a batch with target tokens");
  const auto& o = encoder_->options();
  // [L, 2, N, P, D] -> [P, L*2*H]
  const at::Tensor grad = prefix_grad_.permute({3, 0, 1, 2, 4}).to(at::kCPU).reshape({o.prefix_length, o.output_dim});
  return encoder_->backward(pass(), grad / static_cast<double>(tokens_));
}

StepResult Trainer::step(double learning_rate, double clip) {
  at::Tensor grads = gradient();
  StepResult result;
  result.loss = loss_ / static_cast<double>(tokens_);
  result.tokens = tokens_;
  result.grad_norm = clip_gradient_norm(grads, clip);
  result.applied = std::isfinite(result.grad_norm);
  if (result.applied) optimizer_.step(encoder_->flat(), grads, learning_rate);
  clear();
  return result;
}

void Trainer::reset() {
  clear();
  pool_->trim();
}

void Trainer::clear() {
  pass_.reset();
  prefix_.reset();
  prefix_grad_ = at::Tensor();
  loss_ = 0.0;
  tokens_ = 0;
}

TrainerState Trainer::state() const {
  const AdamW::State& optimizer = optimizer_.state();
  const at::Tensor gradient =
      prefix_grad_.defined() ? prefix_grad_.to(at::kCPU, at::kFloat, false, true) : at::Tensor();
  return {{optimizer.steps, optimizer.mean.clone(), optimizer.square.clone()}, gradient, loss_, tokens_};
}

void Trainer::set_state(const Model& model, const TrainerState& state) {
  AdamW::State& optimizer = optimizer_.state();
  const auto check_size = [](const char* name, const at::Tensor& tensor, int64_t expected) {
    if (tensor.numel() == expected) return;
    refuse(std::string("The trainer state's ") + name + " has " + std::to_string(tensor.numel()) +
           " elements, expected " + std::to_string(expected));
  };
  check_size("mean", state.optimizer.mean, optimizer.mean.numel());
  check_size("square", state.optimizer.square, optimizer.square.numel());
  const ModelConfig& c = model.config();
  const int64_t prefix_length = encoder_->options().prefix_length;
  if (state.gradient.defined())
    check_size("gradient", state.gradient, c.num_layers * 2 * c.hidden_size * prefix_length);
  clear();
  optimizer.steps = state.optimizer.steps;
  optimizer.mean.copy_(state.optimizer.mean);
  optimizer.square.copy_(state.optimizer.square);
  if (state.gradient.defined()) {
    prefix_grad_ = state.gradient.view({c.num_layers, 2, c.num_heads, prefix_length, c.head_size})
                       .to(model.options().device, at::kFloat, false, true);
  }
  loss_ = state.loss;
  tokens_ = state.tokens;
}

double fit_encoder(PrefixEncoder& encoder, const at::Tensor& target, const FitOptions& options,
                   const CancelFlag& cancel) {
  AdamW optimizer({0.9, 0.999, 1e-8, options.weight_decay}, encoder.flat(), encoder.weights());
  const double scale = 2.0 / static_cast<double>(target.numel());
  for (int64_t i = 0; i < options.steps; ++i) {
    cancel.check();
    // Dropout acts here too, with masks that no training step has.
    const auto pass = encoder.forward(-1 - i);
    optimizer.step(encoder.flat(), encoder.backward(pass, (pass.output - target) * scale), options.learning_rate);
  }
  return at::mse_loss(encoder.forward(std::nullopt).output, target).item<double>();
}

}  // namespace neox
