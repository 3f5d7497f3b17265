#include "core/model/int8_weights.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "core/checkpoint/convert_elements.h"
#include "core/kernels/element.h"
#include "core/kernels/kernels.h"

namespace neox {
namespace {

using kernels::kLinearPanel;

// W^T of Int8Weights: the scales are those of its inner dimension, so they multiply what comes in.
class Int8Transposed final : public PackedWeights {
 public:
  Int8Transposed(at::Tensor packed, at::Tensor scales, int64_t out)
      : packed_(std::move(packed)), scales_(std::move(scales)), ones_(at::ones({out}, at::kFloat)) {}

  at::Tensor multiply(const at::Tensor& x, const std::optional<at::Tensor>& bias, Epilogue epilogue,
                      const at::Tensor* residual) const override {
    const NativeProduct product = {packed_, ones_, ones_.size(0), scales_.size(0)};
    return product.multiply(at::mul(x, scales_).to(x.scalar_type()), bias, epilogue, residual);
  }

 private:
  at::Tensor packed_, scales_;
  at::Tensor ones_;
};

at::Tensor empty_packed(at::ScalarType dtype, int64_t out, int64_t in) {
  at::Tensor packed = at::empty({kernels::linear_packed_size(kernels::element_of(dtype), out, in)}, at::kChar);
  prefer_huge_pages(packed);
  return packed;
}

}  // namespace

Int8Weights::Int8Weights(const at::Tensor& weight, at::ScalarType dtype)
    : out_(weight.size(0)), in_(weight.size(1)), dtype_(dtype) {
  packed_ = empty_packed(dtype, out_, in_);
  scales_ = at::empty({out_}, at::kFloat);
  const auto element = kernels::element_of(dtype);
  ElementConverter* const convert = element_converter(weight.scalar_type(), at::kFloat);
  const auto* from = static_cast<const char*>(weight.const_data_ptr());
  auto* to = packed_.mutable_data_ptr<int8_t>();
  auto* scales = scales_.mutable_data_ptr<float>();
  const int64_t panel_size = kernels::linear_packed_size(element, kLinearPanel, in_);
  // Panel by panel, so that there is never more beside the file and the result than a panel for each thread.
  at::parallel_for(0, kernels::linear_panels(out_), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(in_));
    std::vector<int8_t> rows(static_cast<size_t>(kLinearPanel * in_));
    for (int64_t p = begin; p < end; ++p) {
      const int64_t first = p * kLinearPanel;
      const int64_t count = std::min(kLinearPanel, out_ - first);
      for (int64_t n = 0; n < count; ++n) {
        convert(from + (first + n) * in_ * weight.element_size(), row.data(), in_);
        scales[first + n] = kernels::kernels().quantize(row.data(), in_, rows.data() + n * in_);
      }
      kernels::kernels().pack_linear({element, count, in_, rows.data(), in_, 1, to + p * panel_size, true}, 0, 1);
    }
  });
}

at::Tensor Int8Weights::multiply(const at::Tensor& x, const std::optional<at::Tensor>& bias, Epilogue epilogue,
                                 const at::Tensor* residual) const {
  return NativeProduct{packed_, scales_, out_, in_}.multiply(x, bias, epilogue, residual);
}

at::Tensor Int8Weights::multiply_transposed(const at::Tensor& dy) const {
  return NativeProduct{packed_, scales_, out_, in_}.multiply_transposed(dy);
}

std::shared_ptr<const PackedWeights> Int8Weights::transposed() const {
  const NativeProduct product = {packed_, scales_, out_, in_};
  return std::make_shared<Int8Transposed>(product.transposed(dtype_), scales_, in_);
}

int64_t Int8Weights::bytes() const { return static_cast<int64_t>(packed_.nbytes() + scales_.nbytes()); }

at::ScalarType int8_activations() {
  return std::string_view(kernels::kernels().name) == "avx512_bf16" ? at::kBFloat16 : at::kFloat;
}

}  // namespace neox
