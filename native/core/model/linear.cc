#include "core/model/linear.h"

#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>

#include <utility>

#include "core/model/native_weights.h"

namespace neox {

FrozenLinear::FrozenLinear(std::shared_ptr<const WeightSource> source, std::string weight, const std::string& bias,
                           LinearPacking packing)
    : source_(std::move(source)), weight_name_(std::move(weight)), packing_(packing) {
  // A copy, so that the few bytes of a bias do not keep a page of a file in memory each.
  if (!bias.empty()) bias_ = source_->get(bias).clone();
  if (packing_.int8) {
    const at::Tensor stored = source_->stored(weight_name_);
    const auto packed = NativeWeights::quantize(stored, packing_.activations);
    weight_bytes_ = packed->bytes();
    packed_ = packed;
    source_->release(stored);
    return;
  }
  const at::Tensor loaded = source_->get(weight_name_);
  weight_bytes_ = static_cast<int64_t>(loaded.nbytes());
  if (!packing_.forward) {
    weight_ = loaded;
    return;
  }
  packed_ = pack_weights(packing_.backend, loaded);
  source_->release(loaded);
}

at::Tensor FrozenLinear::forward(const at::Tensor& x) const {
  if (!packed_) return at::linear(x, weight_, bias_);
  return packed_->multiply(x, bias_, Epilogue::kNothing, nullptr);
}

at::Tensor FrozenLinear::forward_gelu(const at::Tensor& x, bool tanh) const {
  if (!packed_) return at::gelu(at::linear(x, weight_, bias_), tanh ? "tanh" : "none");
  return packed_->multiply(x, bias_, tanh ? Epilogue::kGeluTanh : Epilogue::kGelu, nullptr);
}

at::Tensor FrozenLinear::forward_add(const at::Tensor& x, const at::Tensor& residual) const {
  if (!packed_) return at::linear(x, weight_, bias_).add_(residual);
  return packed_->multiply(x, bias_, Epilogue::kNothing, &residual);
}

at::Tensor FrozenLinear::backward(const at::Tensor& dy) const {
  if (packed_backward_) return packed_backward_->multiply(dy, std::nullopt, Epilogue::kNothing, nullptr);
  return transposes() ? packed_->multiply_transposed(dy) : at::matmul(dy, weight_);
}

bool FrozenLinear::transposes() const { return packed_ && packed_->transposes(); }

void FrozenLinear::prepare_backward(bool copy) {
  if (packed_backward_) return;
  if (transposes()) {
    if (copy && packing_.backward) packed_backward_ = packed_->transposed();
    return;
  }
  if (!packing_.backward) {
    if (!weight_.defined()) weight_ = source_->get(weight_name_);
    return;
  }
  const at::Tensor loaded = source_->get(weight_name_);
  packed_backward_ = pack_weights(packing_.backend, loaded.t());
  source_->release(loaded);
}

int64_t FrozenLinear::memory_bytes() const {
  const int64_t copies = (weight_.defined() ? 1 : 0) + (packed_ ? 1 : 0) + (packed_backward_ ? 1 : 0);
  return weight_bytes_ * copies;
}

int64_t FrozenLinear::backward_bytes(bool copy) const {
  const bool ready =
      packed_backward_ || (packing_.backward ? transposes() && !copy : transposes() || weight_.defined());
  return ready ? 0 : weight_bytes_;
}

}  // namespace neox
