#include "core/model/int8_weights.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

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

// Panels that multiply_transposed() makes floats of at a time.
constexpr int64_t kPanelsAtATime = 8;

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

// The integers of some panels, row by row: [outputs of the panels, in].
void Int8Weights::unpack(int64_t first_panel, int64_t last_panel, int8_t* out) const {
  const auto element = kernels::element_of(dtype_);
  const auto* from = packed_.const_data_ptr<int8_t>();
  const int64_t step = element == kernels::Element::kFloat32 ? 1 : 2;  // inner elements side by side
  at::parallel_for(first_panel, last_panel, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t count = std::min(kLinearPanel, out_ - p * kLinearPanel);
      const int64_t width = kernels::linear_packed_size(element, count, 1) / step;
      const int8_t* const panel = from + p * kernels::linear_packed_size(element, kLinearPanel, in_);
      int8_t* const rows = out + (p - first_panel) * kLinearPanel * in_;
      for (int64_t n = 0; n < count; ++n) {
        for (int64_t k = 0; k < in_; ++k) rows[n * in_ + k] = panel[(k / step * width + n) * step + k % step];
      }
    }
  });
}

std::shared_ptr<const PackedWeights> Int8Weights::transposed() const {
  const int64_t panels = kernels::linear_panels(out_);
  const at::Tensor rows = at::empty({out_, in_}, at::kChar);
  unpack(0, panels, rows.mutable_data_ptr<int8_t>());
  at::Tensor packed = empty_packed(dtype_, in_, out_);
  const kernels::LinearPackTask task = {kernels::element_of(dtype_), in_, out_, rows.const_data_ptr(), 1, in_,
                                        packed.mutable_data_ptr(),   true};
  at::parallel_for(0, kernels::linear_panels(in_), 1,
                   [&](int64_t begin, int64_t end) { kernels::kernels().pack_linear(task, begin, end); });
  return std::make_shared<Int8Transposed>(std::move(packed), scales_, in_);
}

at::Tensor Int8Weights::multiply_transposed(const at::Tensor& dy) const {
  const at::Tensor from = dy.to(at::kFloat);
  at::Tensor sum = at::zeros({dy.size(0), in_}, at::kFloat);
  const int64_t panels = kernels::linear_panels(out_);
  for (int64_t first = 0; first < panels; first += kPanelsAtATime) {
    const int64_t last = std::min(panels, first + kPanelsAtATime);
    const int64_t begin = first * kLinearPanel;
    const int64_t count = std::min(out_, last * kLinearPanel) - begin;
    const at::Tensor rows = at::empty({count, in_}, at::kChar);
    unpack(first, last, rows.mutable_data_ptr<int8_t>());
    const at::Tensor weights = rows.to(at::kFloat).mul_(scales_.narrow(0, begin, count).unsqueeze(1));
    sum.addmm_(from.narrow(1, begin, count), weights);
  }
  return sum.to(dy.scalar_type());
}

int64_t Int8Weights::bytes() const { return static_cast<int64_t>(packed_.nbytes() + scales_.nbytes()); }

at::ScalarType int8_activations() {
  return std::string_view(kernels::kernels().name) == "avx512_bf16" ? at::kBFloat16 : at::kFloat;
}

}  // namespace neox
