#include "core/model/linear.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>

#include <utility>

namespace neox {
namespace {

// libtorch has no C++ header for these operators; the dispatcher knows them by name, if it has them.
using Reorder = at::Tensor(const at::Tensor&, std::optional<int64_t>);
using Pointwise = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                             c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);
using PointwiseBinary = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                   const std::optional<at::Tensor>&, std::string_view);

// The layout that oneDNN prefers depends a little on the number of rows; this is a training batch's order of magnitude.
constexpr int64_t kTypicalRows = 128;

struct PackedOps {
  c10::TypedOperatorHandle<Reorder> reorder;
  c10::TypedOperatorHandle<Pointwise> pointwise;
  c10::TypedOperatorHandle<PointwiseBinary> binary;

  static const std::optional<PackedOps>& get() {
    static const std::optional<PackedOps> ops = find();
    return ops;
  }

 private:
  static std::optional<PackedOps> find() {
    auto& dispatcher = c10::Dispatcher::singleton();
    const auto reorder = dispatcher.findSchema({"mkldnn::_reorder_linear_weight", ""});
    const auto pointwise = dispatcher.findSchema({"mkldnn::_linear_pointwise", ""});
    const auto binary = dispatcher.findSchema({"mkldnn::_linear_pointwise", "binary"});
    if (!reorder || !pointwise || !binary) return std::nullopt;
    try {
      return PackedOps{reorder->typed<Reorder>(), pointwise->typed<Pointwise>(), binary->typed<PointwiseBinary>()};
    } catch (const c10::Error&) {
      return std::nullopt;  // another libtorch, where they take other arguments
    }
  }
};

at::Tensor packed_linear(const at::Tensor& x, const at::Tensor& packed, const std::optional<at::Tensor>& bias,
                         std::string_view attr, std::optional<std::string_view> algorithm) {
  return PackedOps::get()->pointwise.call(x, packed, bias, attr, c10::List<std::optional<at::Scalar>>(), algorithm);
}

bool try_onednn(at::ScalarType dtype) {
  if (!PackedOps::get()) return false;
  try {
    const at::Tensor weight = at::ones({16, 16}, dtype);
    const at::Tensor packed = PackedOps::get()->reorder.call(weight, kTypicalRows);
    const at::Tensor y = packed_linear(at::ones({2, 16}, dtype), packed, std::nullopt, "none", "");
    return y.to(at::kFloat).eq(16.0).all().item<bool>();
  } catch (const c10::Error&) {
    return false;  // this processor lacks what oneDNN wants for the dtype
  }
}

}  // namespace

bool onednn_supports(at::ScalarType dtype) {
  static const bool float32 = try_onednn(at::kFloat);
  static const bool bfloat16 = try_onednn(at::kBFloat16);
  static const bool float16 = try_onednn(at::kHalf);
  return dtype == at::kFloat ? float32 : dtype == at::kBFloat16 ? bfloat16 : dtype == at::kHalf && float16;
}

FrozenLinear::FrozenLinear(std::shared_ptr<const WeightSource> source, std::string weight, const std::string& bias,
                           LinearPacking packing)
    : source_(std::move(source)), weight_name_(std::move(weight)), packing_(packing) {
  // A copy, so that the few bytes of a bias do not keep a page of a file in memory each.
  if (!bias.empty()) bias_ = source_->get(bias).clone();
  const at::Tensor loaded = source_->get(weight_name_);
  weight_bytes_ = static_cast<int64_t>(loaded.nbytes());
  if (!packing_.forward) {
    weight_ = loaded;
    return;
  }
  packed_ = PackedOps::get()->reorder.call(loaded, kTypicalRows);
  source_->release(loaded);
}

at::Tensor FrozenLinear::forward(const at::Tensor& x) const {
  if (!packed_.defined()) return at::linear(x, weight_, bias_);
  return packed_linear(x, packed_, bias_, "none", "");
}

at::Tensor FrozenLinear::forward_gelu(const at::Tensor& x, bool tanh) const {
  const char* algorithm = tanh ? "tanh" : "none";
  if (!packed_.defined()) return at::gelu(at::linear(x, weight_, bias_), algorithm);
  return packed_linear(x, packed_, bias_, "gelu", algorithm);
}

at::Tensor FrozenLinear::forward_add(const at::Tensor& x, const at::Tensor& residual) const {
  if (!packed_.defined()) return at::linear(x, weight_, bias_).add_(residual);
  return PackedOps::get()->binary.call(x, residual, packed_, bias_, "add");
}

at::Tensor FrozenLinear::backward(const at::Tensor& dy) const {
  if (!packed_backward_.defined()) return at::matmul(dy, weight_);
  return packed_linear(dy, packed_backward_, std::nullopt, "none", "");
}

void FrozenLinear::prepare_backward() {
  if (packed_backward_.defined()) return;
  if (!packing_.backward) {
    if (!weight_.defined()) weight_ = source_->get(weight_name_);
    return;
  }
  const at::Tensor loaded = source_->get(weight_name_);
  packed_backward_ = PackedOps::get()->reorder.call(loaded.t().contiguous(), kTypicalRows);
  source_->release(loaded);
}

int64_t FrozenLinear::memory_bytes() const {
  const int64_t copies =
      (weight_.defined() ? 1 : 0) + (packed_.defined() ? 1 : 0) + (packed_backward_.defined() ? 1 : 0);
  return weight_bytes_ * copies;
}

}  // namespace neox
