#include "core/model/packed_weights.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <utility>
#include <vector>

#include "core/error.h"
#include "core/kernels/element.h"
#include "core/kernels/kernels.h"
#include "core/model/transposed_weights.h"

namespace neox {
namespace {

// ---- oneDNN through libtorch's operators ----

// libtorch has no C++ header for these operators; the dispatcher knows them by name, if it has them.
using Reorder = at::Tensor(const at::Tensor&, std::optional<int64_t>);
using Pointwise = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
                             c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>);
using PointwiseBinary = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                                   const std::optional<at::Tensor>&, std::string_view);

// The layout that oneDNN prefers depends a little on the number of rows; this is a training batch's order of magnitude.
constexpr int64_t kTypicalRows = 128;

struct OneDnnOps {
  c10::TypedOperatorHandle<Reorder> reorder;
  c10::TypedOperatorHandle<Pointwise> pointwise;
  c10::TypedOperatorHandle<PointwiseBinary> binary;

  static const std::optional<OneDnnOps>& get() {
    static const std::optional<OneDnnOps> ops = find();
    return ops;
  }

 private:
  static std::optional<OneDnnOps> find() {
    auto& dispatcher = c10::Dispatcher::singleton();
    const auto reorder = dispatcher.findSchema({"mkldnn::_reorder_linear_weight", ""});
    const auto pointwise = dispatcher.findSchema({"mkldnn::_linear_pointwise", ""});
    const auto binary = dispatcher.findSchema({"mkldnn::_linear_pointwise", "binary"});
    if (!reorder || !pointwise || !binary) return std::nullopt;
    try {
      return OneDnnOps{reorder->typed<Reorder>(), pointwise->typed<Pointwise>(), binary->typed<PointwiseBinary>()};
    } catch (const c10::Error&) {
      return std::nullopt;  // another libtorch, where they take other arguments
    }
  }
};

class OneDnnWeights final : public PackedWeights {
 public:
  explicit OneDnnWeights(const at::Tensor& weight)
      : packed_(OneDnnOps::get()->reorder.call(weight.contiguous(), kTypicalRows)) {}

  at::Tensor multiply(const at::Tensor& x, const std::optional<at::Tensor>& bias, Epilogue epilogue,
                      const at::Tensor* residual) const override {
    const int64_t rows = x.size(0);
    const int64_t padded = padded_rows(rows);
    if (padded == rows) return run(x, bias, epilogue, residual);
    const auto pad = [&](const at::Tensor& t) {
      at::Tensor longer = at::empty({padded, t.size(1)}, t.options());
      longer.narrow(0, 0, rows).copy_(t);
      longer.narrow(0, rows, padded - rows).zero_();
      return longer;
    };
    const at::Tensor longer = residual == nullptr ? at::Tensor() : pad(*residual);
    return run(pad(x), bias, epilogue, residual == nullptr ? nullptr : &longer).narrow(0, 0, rows);
  }

 private:
  // oneDNN compiles code for every number of rows that it meets, and keeps it: training on texts of all lengths held 900 MB of code for a
  // model of 10 MB. So many rows are rounded up; what stands in the rows added changes nothing in the others.
  static int64_t padded_rows(int64_t rows) {
    constexpr int64_t kStep = 32;
    return rows <= 2 * kStep ? rows : (rows + kStep - 1) / kStep * kStep;
  }

  at::Tensor run(const at::Tensor& x, const std::optional<at::Tensor>& bias, Epilogue epilogue,
                 const at::Tensor* residual) const {
    const OneDnnOps& ops = *OneDnnOps::get();
    if (residual != nullptr) return ops.binary.call(x, *residual, packed_, bias, "add");
    const bool gelu = epilogue != Epilogue::kNothing;
    return ops.pointwise.call(x, packed_, bias, gelu ? "gelu" : "none", c10::List<std::optional<at::Scalar>>(),
                              epilogue == Epilogue::kGeluTanh ? "tanh" : "none");
  }

  at::Tensor packed_;
};

bool onednn_runs(at::ScalarType dtype) {
  if (!OneDnnOps::get()) return false;
  try {
    const OneDnnWeights weights(at::ones({16, 16}, dtype));
    const at::Tensor y = weights.multiply(at::ones({2, 16}, dtype), std::nullopt, Epilogue::kNothing, nullptr);
    return y.to(at::kFloat).eq(16.0).all().item<bool>();
  } catch (const c10::Error&) {
    return false;  // this processor lacks what oneDNN wants for the dtype
  }
}

// ---- kernels of our own ----

class NativeWeights final : public PackedWeights {
 public:
  explicit NativeWeights(const at::Tensor& weight) : out_(weight.size(0)), in_(weight.size(1)) {
    const auto element = kernels::element_of(weight.scalar_type());
    packed_ = at::empty({kernels::linear_packed_size(element, out_, in_)}, weight.options());
    prefer_huge_pages(packed_);
    const kernels::LinearPackTask task = {
        element, out_, in_, weight.const_data_ptr(), weight.stride(0), weight.stride(1), packed_.mutable_data_ptr()};
    at::parallel_for(0, kernels::linear_panels(out_), 1,
                     [&](int64_t begin, int64_t end) { kernels::kernels().pack_linear(task, begin, end); });
  }

  at::Tensor multiply(const at::Tensor& x, const std::optional<at::Tensor>& bias, Epilogue epilogue,
                      const at::Tensor* residual) const override {
    return product().multiply(x, bias, epilogue, residual);
  }

  bool transposes() const override { return true; }
  at::Tensor multiply_transposed(const at::Tensor& dy) const override { return product().multiply_transposed(dy); }
  std::shared_ptr<const PackedWeights> transposed() const override {
    return std::shared_ptr<const PackedWeights>(
        new NativeWeights(in_, out_, product().transposed(packed_.scalar_type())));
  }

 private:
  NativeWeights(int64_t out, int64_t in, at::Tensor packed) : out_(out), in_(in), packed_(std::move(packed)) {}

  NativeProduct product() const { return {packed_, no_scales_, out_, in_}; }

  int64_t out_, in_;
  at::Tensor packed_;
  at::Tensor no_scales_;
};

}  // namespace

at::Tensor PackedWeights::multiply_transposed(const at::Tensor& /*dy*/) const {
  throw CoreError("NEOX_UNSUPPORTED", "These packed weights do not multiply transposed");
}

std::shared_ptr<const PackedWeights> PackedWeights::transposed() const {
  throw CoreError("NEOX_UNSUPPORTED", "These packed weights do not multiply transposed");
}

namespace {

// Where `x` and what goes with it lies; weights and scales are up to the caller.
kernels::LinearTask task_of(const at::Tensor& x, int64_t out, int64_t in, at::Tensor& result) {
  kernels::LinearTask task;
  task.element = kernels::element_of(x.scalar_type());
  task.m = x.size(0);
  task.n = out;
  task.k = in;
  task.x = x.const_data_ptr();
  task.x_stride = x.size(1);
  result = at::empty({x.size(0), out}, x.options());
  task.out = result.mutable_data_ptr();
  return task;
}

at::Tensor readable_rows(const at::Tensor& x) {
  const int64_t in = x.size(1);
  if (in % 2 == 0) return x.contiguous();
  at::Tensor rows = at::zeros({x.size(0), in + 1}, x.options());  // bfloat16 goes by pairs: a zero behind each row
  rows.narrow(1, 0, in).copy_(x);
  return rows;
}

}  // namespace

at::Tensor NativeProduct::multiply(const at::Tensor& x, const std::optional<at::Tensor>& bias, Epilogue epilogue,
                                   const at::Tensor* residual) const {
  const at::Tensor rows = readable_rows(x);
  at::Tensor result;
  kernels::LinearTask task = task_of(rows, out, in, result);
  task.after = epilogue == Epilogue::kGelu       ? kernels::After::kGelu
               : epilogue == Epilogue::kGeluTanh ? kernels::After::kGeluTanh
                                                 : kernels::After::kNothing;
  task.weights = packed.const_data_ptr();
  task.bias = bias ? bias->const_data_ptr() : nullptr;
  task.residual = residual == nullptr ? nullptr : residual->const_data_ptr();
  task.scales = scales.defined() ? scales.const_data_ptr<float>() : nullptr;
  at::parallel_for(0, kernels::linear_panels(out), 1,
                   [&](int64_t begin, int64_t end) { kernels::kernels().linear(task, begin, end); });
  return result;
}

at::Tensor NativeProduct::multiply_transposed(const at::Tensor& dy) const {
  // The scales are those of the outputs, over which this product sums.
  const at::Tensor rows = readable_rows(scales.defined() ? at::mul(dy, scales).to(dy.scalar_type()) : dy);
  at::Tensor result;
  kernels::LinearTask task = task_of(rows, in, out, result);
  const std::vector<float> ones(scales.defined() ? static_cast<size_t>(in) : 0, 1.0F);
  task.scales = scales.defined() ? ones.data() : nullptr;
  const PackedView view = {packed.const_data_ptr(), task.element, scales.defined(), out, in};
  at::parallel_for(0, kernels::linear_panels(in), 1, [&](int64_t begin, int64_t end) {
    static thread_local std::vector<char> panel;
    panel.resize(static_cast<size_t>(transposed_panel_bytes(view)));
    kernels::LinearTask part = task;
    part.weights = panel.data();
    for (int64_t p = begin; p < end; ++p) {
      transpose_panels(view, p, p + 1, panel.data());
      part.weights_panel = p;
      kernels::kernels().linear(part, p, p + 1);
    }
  });
  return result;
}

at::Tensor NativeProduct::transposed(at::ScalarType dtype) const {
  const auto element = kernels::element_of(dtype);
  at::Tensor copy = at::empty({kernels::linear_packed_size(element, in, out)}, packed.options());
  prefer_huge_pages(copy);
  const PackedView view = {packed.const_data_ptr(), element, scales.defined(), out, in};
  auto* to = static_cast<char*>(copy.mutable_data_ptr());
  at::parallel_for(0, kernels::linear_panels(in), 1, [&](int64_t begin, int64_t end) {
    transpose_panels(view, begin, end, to + begin * transposed_panel_bytes(view));
  });
  return copy;
}

void prefer_huge_pages(const at::Tensor& tensor) {
#if defined(__linux__)
  constexpr uintptr_t kHuge = uintptr_t{2} << 20;
  const auto begin = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  const uintptr_t first = (begin + kHuge - 1) / kHuge * kHuge;
  const uintptr_t last = (begin + tensor.nbytes()) / kHuge * kHuge;
  if (last > first) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

std::shared_ptr<const PackedWeights> pack_weights(Backend backend, const at::Tensor& weight) {
  switch (backend) {
    case Backend::kOneDnn: return std::make_shared<OneDnnWeights>(weight);
    case Backend::kNative: return std::make_shared<NativeWeights>(weight);
    case Backend::kAten: break;
  }
  throw CoreError("NEOX_UNSUPPORTED", "The aten backend has no packed weights");
}

const char* backend_name(Backend backend) {
  switch (backend) {
    case Backend::kAten: return "aten";
    case Backend::kOneDnn: return "onednn";
    case Backend::kNative: return "native";
  }
  return "unknown";
}

bool backend_supports(Backend backend, at::ScalarType dtype) {
  switch (backend) {
    case Backend::kAten: return true;
    case Backend::kNative: return dtype == at::kFloat || dtype == at::kBFloat16;
    case Backend::kOneDnn: break;
  }
  static const bool float32 = onednn_runs(at::kFloat);
  static const bool bfloat16 = onednn_runs(at::kBFloat16);
  static const bool float16 = onednn_runs(at::kHalf);
  return dtype == at::kFloat ? float32 : dtype == at::kBFloat16 ? bfloat16 : dtype == at::kHalf && float16;
}

Backend best_backend(at::ScalarType dtype) {
  // Our kernels win where they have the processor's own instructions for the dtype: measured on AVX-512 with AVX512_BF16.
  const std::string_view name = kernels::kernels().name;
  const bool fast = dtype == at::kFloat ? name.starts_with("avx512") : dtype == at::kBFloat16 && name == "avx512_bf16";
  if (fast) return Backend::kNative;
  if (backend_supports(Backend::kOneDnn, dtype)) return Backend::kOneDnn;
  // Where oneDNN does not run bfloat16, libtorch's own products take more than ten times as long as ours (a training step on AVX2).
  return backend_supports(Backend::kNative, dtype) ? Backend::kNative : Backend::kAten;
}

}  // namespace neox
