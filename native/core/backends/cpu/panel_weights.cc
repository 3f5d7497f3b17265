#include "core/backends/cpu/panel_weights.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <vector>

#include "core/checkpoint/convert_elements.h"
#include "core/kernels/element.h"

namespace neox {
namespace {

using kernels::linear_packed_size;

int64_t panels_of(int64_t out) { return kernels::linear_panels(out, kernels::kernels().linear_panel); }

// Weights are read from end to end for every token: with pages of 2 MB that takes far fewer look-ups of addresses, and
// the first touch of each page costs 512 times less often. Only asked for, and only where the system leaves the choice
// to programs.
void prefer_huge_pages(const at::Tensor& tensor) {
#if defined(__linux__)
  constexpr uintptr_t kHuge = uintptr_t{2} << 20;
  const auto begin = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  const uintptr_t first = (begin + kHuge - 1) / kHuge * kHuge;
  const uintptr_t last = (begin + tensor.nbytes()) / kHuge * kHuge;
  if (last > first) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

kernels::WeightElement weight_element_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kChar: return kernels::WeightElement::kInt8;
    case at::kBFloat16: return kernels::WeightElement::kBFloat16;
    default: return kernels::WeightElement::kFloat32;
  }
}

}  // namespace

PanelWeights::PanelWeights(int64_t out, int64_t in, at::ScalarType activations, at::ScalarType weights)
    : out_(out), in_(in), element_(kernels::element_of(activations)) {
  packed_ = at::empty({linear_packed_size(weight_element_of(weights), out, in)}, weights);
  prefer_huge_pages(packed_);
}

kernels::WeightElement PanelWeights::weight_element() const { return weight_element_of(packed_.scalar_type()); }

void PanelWeights::transpose_panels(int64_t first, int64_t last, char* to) const {
  kernels::kernels().transpose_panels({weight_element(), out_, in_, packed_.const_data_ptr(), to}, first, last);
}

int64_t PanelWeights::transposed_panel_bytes() const {
  return linear_packed_size(weight_element(), kernels::kernels().linear_panel, out_) * packed_.element_size();
}

std::shared_ptr<const PanelWeights> PanelWeights::pack(const at::Tensor& weight) {
  const std::shared_ptr<PanelWeights> made(
      new PanelWeights(weight.size(0), weight.size(1), weight.scalar_type(), weight.scalar_type()));
  kernels::LinearPackTask task;
  task.element = made->weight_element();
  task.n = made->out_;
  task.k = made->in_;
  task.weights = weight.const_data_ptr();
  task.n_stride = weight.stride(0);
  task.k_stride = weight.stride(1);
  task.out = made->data();
  at::parallel_for(0, panels_of(made->out_), 1,
                   [&](int64_t begin, int64_t end) { kernels::kernels().pack_linear(task, begin, end); });
  return made;
}

std::shared_ptr<const PanelWeights> PanelWeights::quantize(const at::Tensor& weight, at::ScalarType activations) {
  const int64_t out = weight.size(0);
  const int64_t in = weight.size(1);
  const std::shared_ptr<PanelWeights> made(new PanelWeights(out, in, activations, at::kChar));
  made->scales_ = at::empty({out}, at::kFloat);
  auto* scales = made->scales_.mutable_data_ptr<float>();
  ElementConverter* const convert = element_converter(weight.scalar_type(), at::kFloat);
  const auto* from = static_cast<const char*>(weight.const_data_ptr());
  const int64_t panel = kernels::kernels().linear_panel;
  const int64_t panel_size = linear_packed_size(kernels::WeightElement::kInt8, panel, in);
  // Panel by panel, so that there is never more beside the file and the result than a panel for each thread.
  at::parallel_for(0, panels_of(out), 1, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(in));
    std::vector<int8_t> rows(static_cast<size_t>(panel * in));
    for (int64_t p = begin; p < end; ++p) {
      const int64_t first = p * panel;
      const int64_t count = std::min(panel, out - first);
      for (int64_t n = 0; n < count; ++n) {
        convert(from + (first + n) * in * weight.element_size(), row.data(), in);
        scales[first + n] = kernels::kernels().quantize(row.data(), in, rows.data() + n * in);
      }
      char* const to = made->data() + p * panel_size;
      kernels::kernels().pack_linear({kernels::WeightElement::kInt8, count, in, rows.data(), in, 1, to}, 0, 1);
    }
  });
  return made;
}

// `factors`: float32 [K] that x is multiplied with first; undefined: none. Only int8 weights have them.
PanelWeights::Operand PanelWeights::readable_rows(const at::Tensor& x, const at::Tensor& factors) const {
  const int64_t m = x.size(0);
  const int64_t k = x.size(1);
  const int64_t stride = (k + 1) / 2 * 2;
  if (weight_element() != kernels::WeightElement::kInt8) {
    const at::ScalarType dtype = kernels::kernels().wide_rows ? at::kFloat : x.scalar_type();
    if (k == stride) return {x.to(dtype).contiguous(), {}};
    at::Tensor rows =
        at::zeros({m, stride}, x.options().dtype(dtype));  // bfloat16 goes by pairs: a zero behind each row
    rows.narrow(1, 0, k).copy_(x);
    return {rows, {}};
  }
  const at::Tensor from = x.to(activations()).contiguous();
  Operand rows = {at::empty({m, stride}, at::kShort), at::empty({m, kernels::quantized_chunks(k)}, at::kFloat)};
  kernels::QuantizeTask task;
  task.element = element_;
  task.k = k;
  task.x = from.const_data_ptr();
  task.x_stride = k;
  task.factors = factors.defined() ? factors.const_data_ptr<float>() : nullptr;
  task.out = rows.x.mutable_data_ptr<int16_t>();
  task.out_stride = stride;
  task.scales = rows.scales.mutable_data_ptr<float>();
  at::parallel_for(0, m, 16, [&](int64_t begin, int64_t end) { kernels::kernels().quantize_rows(task, begin, end); });
  return rows;
}

// The product of rows [M, in] with [in, out]; `result` [M, out] is made.
kernels::LinearTask PanelWeights::task(const Operand& rows, int64_t out, int64_t in, const at::Tensor& scales,
                                       at::Tensor& result) const {
  const int64_t m = rows.x.size(0);
  result = at::empty({m, out}, activations());
  kernels::LinearTask task;
  task.element = element_;
  task.weight_element = weight_element();
  task.m = m;
  task.n = out;
  task.k = in;
  task.x = rows.x.const_data_ptr();
  task.x_stride = rows.x.size(1);
  task.out = result.mutable_data_ptr();
  task.scales = scales.defined() ? scales.const_data_ptr<float>() : nullptr;
  task.x_scales = rows.scales.defined() ? rows.scales.const_data_ptr<float>() : nullptr;
  return task;
}

at::Tensor PanelWeights::multiply(const at::Tensor& x, const std::optional<at::Tensor>& bias, Epilogue epilogue,
                                  const at::Tensor* residual) const {
  const Operand rows = readable_rows(x, input_scales_);
  at::Tensor result;
  kernels::LinearTask task = this->task(rows, out_, in_, scales_, result);
  task.after = epilogue == Epilogue::kGelu       ? kernels::After::kGelu
               : epilogue == Epilogue::kGeluTanh ? kernels::After::kGeluTanh
                                                 : kernels::After::kNothing;
  task.weights = packed_.const_data_ptr();
  task.bias = bias ? bias->const_data_ptr() : nullptr;
  task.residual = residual == nullptr ? nullptr : residual->const_data_ptr();
  at::parallel_for(0, panels_of(out_), 1,
                   [&](int64_t begin, int64_t end) { kernels::kernels().linear(task, begin, end); });
  return result;
}

at::Tensor PanelWeights::multiply_transposed(const at::Tensor& dy) const {
  const Operand rows = readable_rows(dy, scales_);
  at::Tensor result;
  const kernels::LinearTask whole = task(rows, in_, out_, input_scales_, result);
  at::parallel_for(0, panels_of(in_), 1, [&](int64_t begin, int64_t end) {
    static thread_local std::vector<char> panel;
    panel.resize(static_cast<size_t>(transposed_panel_bytes()));
    kernels::LinearTask part = whole;
    part.weights = panel.data();
    for (int64_t p = begin; p < end; ++p) {
      transpose_panels(p, p + 1, panel.data());
      part.weights_panel = p;
      kernels::kernels().linear(part, p, p + 1);
    }
  });
  return result;
}

std::shared_ptr<const FrozenWeights> PanelWeights::transposed() const {
  const std::shared_ptr<PanelWeights> made(new PanelWeights(in_, out_, activations(), packed_.scalar_type()));
  made->scales_ = input_scales_;
  made->input_scales_ = scales_;
  at::parallel_for(0, panels_of(in_), 1, [&](int64_t begin, int64_t end) {
    transpose_panels(begin, end, made->data() + begin * transposed_panel_bytes());
  });
  return made;
}

int64_t PanelWeights::bytes() const {
  return static_cast<int64_t>(packed_.nbytes() + (scales_.defined() ? scales_.nbytes() : 0));
}

}  // namespace neox
