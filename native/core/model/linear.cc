#include "core/model/linear.h"

#include <utility>

namespace neox {

FrozenLinear::FrozenLinear(std::shared_ptr<const WeightSource> source, std::string weight, const std::string& bias,
                           LinearPacking packing)
    : source_(std::move(source)), weight_name_(std::move(weight)), packing_(packing) {
  // A copy, so that the few bytes of a bias do not keep a page of a file in memory each.
  if (!bias.empty()) bias_ = source_->get(bias).clone();
  if (packing_.precision.int8) {
    const at::Tensor stored = source_->stored(weight_name_);
    weights_ = packing_.forward->quantize(stored, packing_.precision.activations);
    weight_bytes_ = weights_->bytes();
    source_->release(stored);
    return;
  }
  const at::Tensor loaded = source_->get(weight_name_);
  weight_bytes_ = static_cast<int64_t>(loaded.nbytes());
  weights_ = packing_.forward->pack(loaded);
  if (packing_.forward->packs()) source_->release(loaded);
}

at::Tensor FrozenLinear::forward(const at::Tensor& x) const {
  return weights_->multiply(x, bias_, Epilogue::kNothing, nullptr);
}

at::Tensor FrozenLinear::forward_gelu(const at::Tensor& x, bool tanh) const {
  return weights_->multiply(x, bias_, tanh ? Epilogue::kGeluTanh : Epilogue::kGelu, nullptr);
}

at::Tensor FrozenLinear::forward_add(const at::Tensor& x, const at::Tensor& residual) const {
  return weights_->multiply(x, bias_, Epilogue::kNothing, &residual);
}

at::Tensor FrozenLinear::backward(const at::Tensor& dy) const {
  if (transposed_) return transposed_->multiply(dy, std::nullopt, Epilogue::kNothing, nullptr);
  return weights_->multiply_transposed(dy);
}

void FrozenLinear::prepare_backward(bool copy) {
  if (transposed_) return;
  const bool packs = packing_.backward->packs();
  if (weights_->transposes()) {
    if (copy && packs) transposed_ = weights_->transposed();
    return;
  }
  const at::Tensor loaded = source_->get(weight_name_);
  transposed_ = packing_.backward->pack(loaded.t());
  if (packs) source_->release(loaded);
}

int64_t FrozenLinear::memory_bytes() const { return transposed_ ? 2 * weight_bytes_ : weight_bytes_; }

int64_t FrozenLinear::backward_bytes(bool copy) const {
  const bool ready = transposed_ || (weights_->transposes() && !(copy && packing_.backward->packs()));
  return ready ? 0 : weight_bytes_;
}

}  // namespace neox
