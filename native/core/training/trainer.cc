#include "core/training/trainer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mse_loss.h>
#include <ATen/ops/zeros.h>

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
    : encoder_(std::move(encoder)), options_(options), pool_(model.pool()), device_(model.options().device) {
  if (encoder_) {
    options_.prefix_length = encoder_->options().prefix_length;
    optimizer_.emplace(options.optimizer, encoder_->flat(), decayed(*encoder_, options.decay_biases));
  }
  const ModelConfig& c = model.config();
  shape_ = {c.num_layers, 2, c.num_heads, options_.prefix_length, c.head_size};
  model.prepare_backward(options.copy_weights, cancel);
}

Trainer::~Trainer() { reset(); }

AdamW& Trainer::optimizer() {
  if (!optimizer_) refuse("Another rank has the encoder of this training");
  return *optimizer_;
}

const AdamW& Trainer::optimizer() const { return const_cast<Trainer*>(this)->optimizer(); }

const PrefixEncoder::Pass& Trainer::pass() {
  if (!pass_) pass_ = encoder_->forward(optimizer().state().steps);
  return *pass_;
}

const at::Tensor& Trainer::prefix_values() {
  if (encoder_) return pass().output;
  if (!values_.defined()) {
    const int64_t output = shape_[0] * shape_[1] * shape_[2] * shape_[4];
    values_ = at::zeros({options_.prefix_length, output}, at::kFloat);
  }
  return values_;
}

LossSum Trainer::accumulate(const Model& model, const TrainingBatch& batch, int64_t lane, double loss_scale,
                            const CancelFlag& cancel) {
  if (!prefix_) prefix_ = make_block(model.kv_shape(), prefix_values());
  auto rows = rows_of(batch, model, prefix_.get());
  const auto result =
      model.loss_and_gradient(ids_of(batch, model), batch.targets, rows, {loss_scale, options_.checkpointing}, cancel);
  if (lanes_.empty() || lanes_.back().number != lane) {
    if (!options_.keep_lanes) fold();
    lanes_.push_back({lane, result.prefix, result.sum.loss, result.sum.tokens});
  } else {
    Lane& current = lanes_.back();
    current.gradient.add_(result.prefix);
    current.loss += result.sum.loss;
    current.tokens += result.sum.tokens;
  }
  return result.sum;
}

// Adds each lane to the ones before.
void Trainer::fold() {
  for (size_t i = 1; i < lanes_.size(); ++i) {
    lanes_[0].gradient.add_(lanes_[i].gradient);
    lanes_[0].loss += lanes_[i].loss;
    lanes_[0].tokens += lanes_[i].tokens;
  }
  if (lanes_.size() > 1) lanes_.resize(1);
}

const Lane& Trainer::sum() {
  fold();
  if (lanes_.empty() || lanes_[0].tokens == 0) refuse("A training step needs a batch with target tokens");
  return lanes_[0];
}

void Trainer::set_sum(const at::Tensor& gradient, double loss, int64_t tokens) {
  lanes_ = {{0, gradient.view(shape_).to(device_, at::kFloat, false, false), loss, tokens}};
}

at::Tensor Trainer::gradient() {
  const Lane& step = sum();
  const auto& o = encoder_->options();
  // [L, 2, N, P, D] -> [P, L*2*H]
  const at::Tensor grad = step.gradient.permute({3, 0, 1, 2, 4}).to(at::kCPU).reshape({o.prefix_length, o.output_dim});
  return encoder_->backward(pass(), grad / static_cast<double>(step.tokens));
}

StepResult Trainer::step(double learning_rate, double clip) {
  AdamW& optimizer = this->optimizer();
  at::Tensor grads = gradient();
  StepResult result;
  result.loss = sum().loss / static_cast<double>(sum().tokens);
  result.tokens = sum().tokens;
  result.grad_norm = clip_gradient_norm(grads, clip);
  result.applied = std::isfinite(result.grad_norm);
  if (result.applied) optimizer.step(encoder_->flat(), grads, learning_rate);
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
  lanes_.clear();
}

TrainerState Trainer::state() const {
  const AdamW::State& optimizer = this->optimizer().state();
  // Between lanes nothing is saved: there is one at most.
  const Lane step = lanes_.empty() ? Lane() : lanes_[0];
  const at::Tensor gradient =
      step.gradient.defined() ? step.gradient.to(at::kCPU, at::kFloat, false, true) : at::Tensor();
  return {{optimizer.steps, optimizer.mean.clone(), optimizer.square.clone()}, gradient, step.loss, step.tokens};
}

void Trainer::set_state(const TrainerState& state) {
  AdamW::State& optimizer = this->optimizer().state();
  const auto check_size = [](const char* name, const at::Tensor& tensor, int64_t expected) {
    if (tensor.numel() == expected) return;
    refuse(std::string("The trainer state's ") + name + " has " + std::to_string(tensor.numel()) +
           " elements, expected " + std::to_string(expected));
  };
  check_size("mean", state.optimizer.mean, optimizer.mean.numel());
  check_size("square", state.optimizer.square, optimizer.square.numel());
  if (state.gradient.defined())
    check_size("gradient", state.gradient, shape_[0] * shape_[1] * shape_[2] * shape_[3] * shape_[4]);
  clear();
  optimizer.steps = state.optimizer.steps;
  optimizer.mean.copy_(state.optimizer.mean);
  optimizer.square.copy_(state.optimizer.square);
  if (state.gradient.defined()) {
    lanes_ = {{0, state.gradient.view(shape_).to(device_, at::kFloat, false, true), state.loss, state.tokens}};
  }
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
