#include "core/training/trainer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mse_loss.h>

#include <utility>

#include "core/error.h"

namespace neox {
namespace {

std::vector<Row> rows_of(const TrainingBatch& batch, const Prefix* prefix) {
  std::vector<Row> rows;
  int64_t first = 0;
  for (const int64_t length : batch.lengths) {
    rows.push_back({first, length, prefix, nullptr});
    first += length;
  }
  return rows;
}

at::Tensor ids_of(const TrainingBatch& batch, const GPTNeoX& model) {
  auto* data = const_cast<int64_t*>(batch.ids.data());
  return at::from_blob(data, {static_cast<int64_t>(batch.ids.size())}, at::kLong).to(model.options().device);
}

}  // namespace

LossSum evaluate_batch(const GPTNeoX& model, const Prefix* prefix, const TrainingBatch& batch,
                       const CancelFlag& cancel) {
  auto rows = rows_of(batch, prefix);
  return model.loss(ids_of(batch, model), batch.targets, rows, cancel);
}

Trainer::Trainer(std::shared_ptr<PrefixEncoder> encoder, const AdamWOptions& options)
    : encoder_(std::move(encoder)), optimizer_(options, encoder_->decayed()) {}

LossSum Trainer::accumulate(const GPTNeoX& model, const TrainingBatch& batch, const CancelFlag& cancel) {
  if (!prefix_) prefix_ = make_prefix(model.config(), encoder_->forward(true), model.tensor_options());
  auto rows = rows_of(batch, prefix_.get());
  const auto result = model.loss_and_gradient(ids_of(batch, model), batch.targets, rows, cancel);
  if (prefix_grad_.defined()) {
    prefix_grad_.add_(result.prefix);
  } else {
    prefix_grad_ = result.prefix;
  }
  sum_.loss += result.sum.loss;
  sum_.tokens += result.sum.tokens;
  return result.sum;
}

at::Tensor Trainer::gradient() const {
  if (!prefix_grad_.defined() || sum_.tokens == 0)
    throw CoreError("NEOX_BAD_ARGUMENT", "A training step needs a batch with target tokens");
  const auto& o = encoder_->options();
  // [L, 2, N, P, D] -> [P, L*2*H]
  const at::Tensor grad = prefix_grad_.permute({3, 0, 1, 2, 4}).to(at::kCPU).reshape({o.prefix_length, o.output_dim});
  return encoder_->backward(grad / static_cast<double>(sum_.tokens));
}

StepResult Trainer::step(double learning_rate, double clip) {
  at::Tensor grads = gradient();
  StepResult result;
  result.loss = sum_.loss / static_cast<double>(sum_.tokens);
  result.tokens = sum_.tokens;
  result.grad_norm = clip_gradient_norm(grads, clip);
  optimizer_.step(encoder_->flat(), grads, learning_rate);
  reset();
  return result;
}

void Trainer::reset() {
  prefix_.reset();
  prefix_grad_ = at::Tensor();
  sum_ = LossSum();
}

double fit_encoder(PrefixEncoder& encoder, const at::Tensor& target, const FitOptions& options,
                   const CancelFlag& cancel) {
  AdamW optimizer({0.9, 0.999, 1e-8, options.weight_decay}, encoder.decayed());
  const double scale = 2.0 / static_cast<double>(target.numel());
  for (int64_t i = 0; i < options.steps; ++i) {
    cancel.check();
    const at::Tensor out = encoder.forward(true);
    optimizer.step(encoder.flat(), encoder.backward((out - target) * scale), options.learning_rate);
  }
  return at::mse_loss(encoder.forward(false), target).item<double>();
}

}  // namespace neox
